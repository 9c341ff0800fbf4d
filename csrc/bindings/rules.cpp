#include "bindings/rules.h"

#include <cstring>
#include <new>
#include <type_traits>
#include <unordered_map>

#include "bindings/options.h"
#include "bindings/program_rule.h"
#include "rules/list.h"
#include "simd/vec.h"

namespace py = pybind11;

namespace fastopt {
namespace {

// Python strings for the option names, made once. Keyed by address: the names are literals.
PyObject* interned(const char* name) {
  static auto& strings = *new std::unordered_map<const char*, PyObject*>();
  PyObject*& text = strings[name];
  if (text == nullptr) text = PyUnicode_InternFromString(name);
  return text;
}

// Visits a rule's options and sets each from a dict.
class OptionReader {
 public:
  OptionReader(py::handle group, Checks checks, bool lr_on_device)
      : group_(group), checks_(checks), lr_on_device_(lr_on_device) {}

  void operator()(const char* name, double& value, Range range) {
    if (PyObject* object = find(name)) value = number_in(range, name, object, checks_);
  }

  // For what a step's group lacks, since the state keeps it.
  void read_kept(const char* name, double& value, Range range) {
    if (PyObject* object = lookup(name)) value = number_in(range, name, object, checks_);
  }

  void operator()(const char* name, double& first, double& second, Range range) {
    PyObject* pair = find(name);
    if (pair == nullptr) return;
    const py::tuple two = several(name, pair, 2);
    first = number_in(range, name, PyTuple_GET_ITEM(two.ptr(), 0), checks_);
    second = number_in(range, name, PyTuple_GET_ITEM(two.ptr(), 1), checks_);
  }

  void operator()(const char* name, bool& value) {
    if (PyObject* object = find(name)) value = flag(name, object);
  }

 private:
  PyObject* find(const char* name) const {
    if (lr_on_device_ && std::strcmp(name, "lr") == 0) return nullptr;
    PyObject* object = lookup(name);
    if (object == nullptr && checks_ == Checks::none) throw py::key_error(name);
    return object;
  }

  PyObject* lookup(const char* name) const {
    PyObject* object = PyDict_GetItemWithError(group_.ptr(), interned(name));
    if (object == nullptr && PyErr_Occurred()) throw py::error_already_set();
    return object;
  }

  py::handle group_;
  Checks checks_;
  bool lr_on_device_;
};

template <template <class> class Rule, bool norms>
class RuleOf final : public AnyRule {
 public:
  explicit RuleOf(int index) : index_(index) {}

  int index() const override { return index_; }
  bool has_norms() const override { return norms; }
  AnyRule& on_devices() override {
    if constexpr (norms) {
      if (!program_) program_ = make_rule(std::string(Rule<float>::name) + " on devices");
      return *program_;
    }
    return *this;
  }

  int state_count() const override { return Rule<float>::state_count; }
  const char* state_name(int state) const override { return Rule<float>::states[state]; }

  void read_options(py::handle group, Checks checks, bool lr_on_device) override {
    options_ = {};
    OptionReader reader(group, checks, lr_on_device);
    options_.visit(reader);
    if constexpr (keeps_product) {
      product_ = 0;
      reader.read_kept(Rule<float>::product, product_, Range::unit);
    }
  }

  std::shared_ptr<const void> options() const override {
    return std::make_shared<Options>(options_);
  }

  bool uses(int state) const override { return Rule<float>::uses(options_, state); }
  bool always_uses(int state) const override { return state < Rule<float>::required; }
  bool is_square(int state) const override { return (Rule<float>::squares >> state & 1) != 0; }
  bool counts_steps() const override { return Rule<float>::counts_steps(options_); }

  const char* product_name() const override {
    if constexpr (keeps_product) return Rule<float>::product;
    return nullptr;
  }

  double product() const override { return product_; }

  double next_product(DType stored, double product, [[maybe_unused]] double step) const override {
    if constexpr (keeps_product) {
      if (stored == DType::float64) {
        return host::next_product<Rule<float>>(product, options_, step);
      }
      return host::next_product<Rule<float>>(static_cast<float>(product), options_, step);
    }
    return product;
  }

  BoundRule at_step(DType compute, double step, double product) override {
    BoundRule bound;
    bound.has_norms = norms;
    if (compute == DType::float32) {
      put(bound, host::rule_at<Rule<float>>(options_, step, product));
    } else {
      put(bound, host::rule_at<Rule<double>>(options_, step, product));
    }
    return bound;
  }

 private:
  using Options = typename Rule<float>::Options;
  static constexpr bool keeps_product = host::keeps_product<Rule<float>>;

  template <class R>
  static void put(BoundRule& bound, const R& rule) {
    static_assert(sizeof(R) <= max_rule_bytes, "raise max_rule_bytes in cpu/kernel.h");
    static_assert(std::is_trivially_copyable_v<R>, "a rule is bytes to whoever hands it on");
    new (bound.rule) R(rule);
  }

  int index_;
  Options options_;
  double product_ = 1;
  std::unique_ptr<AnyRule> program_;  // of a rule with norms: fastopt.rules.library has it
};

}  // namespace

bool is_compiled(const std::string& name) {
#define FASTOPT_IS(Rule) || name == host::Rule<float>::name
  return false FASTOPT_RULES(FASTOPT_IS) FASTOPT_NORMED_RULES(FASTOPT_IS);
#undef FASTOPT_IS
}

std::unique_ptr<AnyRule> make_rule(const std::string& name) {
#define FASTOPT_MAKE(Rule)                                                                        \
  if (name == host::Rule<float>::name) return std::make_unique<RuleOf<host::Rule, norms>>(index); \
  ++index;
  int index = 0;
  {
    constexpr bool norms = false;
    FASTOPT_RULES(FASTOPT_MAKE)
  }
  {
    constexpr bool norms = true;
    FASTOPT_NORMED_RULES(FASTOPT_MAKE)
  }
#undef FASTOPT_MAKE
  if (auto rule = make_program_rule(name)) return rule;
  throw py::value_error("rule: there is no rule named '" + name + "'");
}

}  // namespace fastopt
