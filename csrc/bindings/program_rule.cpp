#include "bindings/program_rule.h"

#include <pybind11/stl.h>

#include <algorithm>
#include <array>
#include <deque>
#include <new>
#include <tuple>
#include <unordered_map>
#include <vector>

#include "bindings/options.h"
#include "cpu/summed.h"
#include "cpu/traced.h"
#include "rules/list.h"

namespace py = pybind11;

namespace fastopt {
namespace {

constexpr std::size_t programs_kept = 64;  // of one choice of options

using Programs = std::vector<std::shared_ptr<const Traced>>;

// Every program that there may be where these inputs are given on a device.
struct Branches {
  std::vector<int> given;
  Programs programs;
};

// Those of a function for one choice of what is not a number: flags, texts, None.
struct Family {
  py::tuple choice;
  Programs programs;  // the one used last is the first
  std::deque<Branches> branches;
};

struct Option {
  std::string name;
  PyObject* interned;
  std::vector<double> numbers;  // its defaults; several for a tuple
  Range range;
  py::object value;  // the default of one that is a flag, or may be something else than a number
  bool is_flag() const { return value.ptr() != nullptr && PyBool_Check(value.ptr()); }
  bool is_free() const { return value.ptr() != nullptr; }
};

// What Python defined.
struct Definition {
  std::vector<std::string> states;
  unsigned squares = 0;
  std::vector<Option> options;
  std::vector<Option> kept;  // numbers, with what they begin at
  bool has_sums = false;
  py::object trace;  // (choice, numbers, given) -> [Traced]: one, or all of the branches
  std::deque<Family> families;
};

std::unordered_map<std::string, std::shared_ptr<Definition>>& definitions() {
  static auto& all = *new std::unordered_map<std::string, std::shared_ptr<Definition>>();
  return all;
}

bool is_number(PyObject* object) {
  return PyFloat_Check(object) || (PyLong_Check(object) && !PyBool_Check(object));
}

class ProgramRule final : public AnyRule {
 public:
  explicit ProgramRule(std::shared_ptr<Definition> definition)
      : definition_(std::move(definition)) {}

  int index() const override { return program_rule; }
  bool has_norms() const override { return definition_->has_sums; }
  bool is_program() const override { return true; }

  int state_count() const override { return static_cast<int>(definition_->states.size()); }
  const char* state_name(int state) const override { return definition_->states[state].c_str(); }

  void read_options(py::handle group, Checks checks, bool lr_on_device) override {
    inputs_.assign(1, 0);  // the number of the step comes there
    lr_at_ = -1;
    advanced_ = {};
    py::list choice;
    for (const Option& option : definition_->options) {
      PyObject* object = find(group, option);
      if (object == nullptr && checks == Checks::none) throw py::key_error(option.name);
      if (lr_on_device && option.name == "lr" && option.numbers.size() == 1) {
        lr_at_ = static_cast<int>(inputs_.size());
        object = nullptr;
      }
      read(option, object, checks, choice);
    }
    for (const Option& kept : definition_->kept) {  // fastopt.kernels has them among the options
      PyObject* object = find(group, kept);
      inputs_.push_back(object == nullptr ? kept.numbers[0]
                                          : number(object, kept.name.c_str(), "a number"));
    }
    find_family(py::tuple(choice));
  }

  std::shared_ptr<const void> options() const override { return nullptr; }  // only CUDA asks

  bool uses(int) const override { return true; }
  bool always_uses(int) const override { return true; }
  bool is_square(int state) const override { return (definition_->squares >> state & 1) != 0; }
  bool counts_steps() const override { return true; }

  const char* product_name() const override { return nullptr; }
  double product() const override { return 1; }
  double next_product(DType, double product, double) const override { return product; }

  int kept_count() const override { return static_cast<int>(definition_->kept.size()); }
  const char* kept_name(int k) const override { return definition_->kept[k].name.c_str(); }
  bool runs_python(const std::vector<double>& kept, double step) override {
    set_inputs(kept, step);
    if (inputs_ == advanced_.inputs) return false;
    const auto holds = [this](const auto& program) { return program->holds(inputs_, numbers_); };
    return std::none_of(family_->programs.begin(), family_->programs.end(), holds);
  }

  void advance(std::vector<double>& kept, double step) override {
    set_inputs(kept, step);
    if (inputs_ != advanced_.inputs) {
      const Traced& program = find_program();
      program.compute(0, numbers_);
      for (std::size_t k = 0; k < kept.size(); ++k) kept[k] = numbers_[program.kept[k]];
      advanced_ = {inputs_, kept};
    }
    kept = advanced_.kept;
  }

  BoundRule at_step(DType compute, double step, double) override {
    inputs_[0] = step;
    const Traced& program = find_program();
    program.compute(0, numbers_);
    BoundRule bound;
    if (program.has_sums()) {
      held_.push_back(family_->programs[0]);
      bound.summed = &summed_.emplace_back(Summed{&program, numbers_});
      return bound;
    }
    const void* code = compute == DType::float32 ? bind(program, floats_, floats_used_)
                                                 : bind(program, doubles_, doubles_used_);
    static_assert(sizeof(BoundProgram) <= sizeof(bound.rule));
    new (bound.rule) BoundProgram(program.bound(0, code));
    return bound;
  }

  bool reads_lr_there() const override { return lr_at_ >= 0; }
  bool runs_python_there(double step, const NumbersThere& there) override {
    set_step(step, there);
    return find_branches(given_of(there)) == nullptr;
  }

  BoundRule at_step_there(DType, double step, const NumbersThere& there) override {
    set_step(step, there);
    const std::vector<int> given = given_of(there);
    const Branches* branches = find_branches(given);
    if (branches == nullptr) branches = &trace_branches(given);
    Summed& first = summed_.emplace_back();
    first.given = given;
    for (const auto& program : branches->programs) {
      const bool is_first = program == branches->programs[0];
      Summed& one = is_first ? first : first.others.emplace_back();
      one.program = program.get();
      program->begin(inputs_, one.numbers);
      held_.push_back(program);
    }
    BoundRule bound;
    bound.summed = &first;
    return bound;
  }

  void forget_steps() override {
    floats_used_ = doubles_used_ = 0;
    summed_.clear();
    held_.clear();
  }

 private:
  template <class T>
  using Bound = std::deque<std::vector<Instruction<T>>>;

  void set_inputs(const std::vector<double>& kept, double step) {
    std::copy(kept.begin(), kept.end(), inputs_.end() - static_cast<std::ptrdiff_t>(kept.size()));
    inputs_[0] = step;
  }

  // What lies on a device has no value here; any would do to be traced.
  void set_step(double step, const NumbersThere& there) { inputs_[0] = there.step ? 2 : step; }

  // Those of the inputs.
  std::vector<int> given_of(const NumbersThere& there) const {
    std::vector<int> given;
    if (there.step) given.push_back(0);
    if (there.lr) given.push_back(lr_at_);
    const int count = static_cast<int>(inputs_.size());
    for (int k = there.kept ? count - kept_count() : count; k < count; ++k) given.push_back(k);
    return given;
  }

  static PyObject* find(py::handle group, const Option& option) {
    PyObject* object = PyDict_GetItemWithError(group.ptr(), option.interned);
    if (object == nullptr && PyErr_Occurred()) throw py::error_already_set();
    return object;
  }

  // nullptr for the default.
  void read(const Option& option, PyObject* object, Checks checks, py::list& choice) {
    const char* const name = option.name.c_str();
    if (object == nullptr) object = option.value.ptr();
    if (object == nullptr) {
      inputs_.insert(inputs_.end(), option.numbers.begin(), option.numbers.end());
    } else if (option.is_flag()) {
      inputs_.push_back(0);
      choice.append(flag(name, object));
    } else if (option.is_free()) {
      const bool counts = is_number(object);
      inputs_.push_back(counts ? number_in(option.range, name, object, checks) : 0);
      choice.append(counts ? py::handle(Py_Ellipsis) : py::handle(object));
    } else if (option.numbers.size() == 1) {
      inputs_.push_back(number_in(option.range, name, object, checks));
    } else {
      const py::tuple items = several(name, object, option.numbers.size());
      for (const py::handle item : items) {
        inputs_.push_back(number_in(option.range, name, item.ptr(), checks));
      }
    }
  }

  void find_family(const py::tuple& choice) {
    for (Family& family : definition_->families) {
      if (family.choice.equal(choice)) {
        family_ = &family;
        return;
      }
    }
    family_ = &definition_->families.emplace_back(Family{choice, {}, {}});
  }

  // The family's program for the inputs, whose guards' numbers are then known.
  const Traced& find_program() {
    auto& programs = family_->programs;
    for (std::size_t i = 0; i < programs.size(); ++i) {
      if (!programs[i]->holds(inputs_, numbers_)) continue;
      if (i > 0) std::swap(programs[i], programs[0]);
      return *programs[0];
    }
    advanced_ = {};
    auto traced = trace({})[0];
    if (!traced->holds(inputs_, numbers_)) throw std::logic_error(other_step);
    if (programs.size() == programs_kept) programs.pop_back();
    programs.insert(programs.begin(), std::move(traced));
    return *programs[0];
  }

  static constexpr const char* other_step = "a rule was traced to a program of another step";

  // The program for the inputs; or those of all branches, where some are given on a device.
  Programs trace(const std::vector<int>& given) const {
    Programs programs;
    for (const auto& traced : definition_->trace(family_->choice, inputs_, given)
                                  .cast<std::vector<std::shared_ptr<Traced>>>()) {
      if (traced->given() != static_cast<int>(inputs_.size()) ||
          traced->arrays != state_count() + 2 || traced->kept.size() != definition_->kept.size()) {
        throw std::logic_error(other_step);
      }
      if (traced->has_sums() && !definition_->has_sums) {
        throw py::type_error(
            "these options sum over a tensor, which the rule's defaults do not; "
            "expected @rule(sums=True)");
      }
      programs.push_back(traced);
    }
    return programs;
  }

  // The family's branches for the inputs, if they have been traced.
  const Branches* find_branches(const std::vector<int>& given) const {
    for (const Branches& branches : family_->branches) {
      const auto may_hold = [&](const auto& program) { return program->may_hold(inputs_, given); };
      if (branches.given == given &&
          std::all_of(branches.programs.begin(), branches.programs.end(), may_hold)) {
        return &branches;
      }
    }
    return nullptr;
  }

  const Branches& trace_branches(const std::vector<int>& given) {
    Programs programs = trace(given);
    if (family_->branches.size() == programs_kept) family_->branches.pop_back();
    return family_->branches.emplace_front(Branches{given, std::move(programs)});
  }

  template <class T>
  const void* bind(const Traced& program, Bound<T>& kept, std::size_t& used) {
    if (used == kept.size()) kept.emplace_back();
    program.bind(0, numbers_, kept[used]);
    return kept[used++].data();
  }

  const std::shared_ptr<Definition> definition_;
  std::vector<double> inputs_, numbers_;
  int lr_at_ = -1;  // among the inputs, where it lies on a device
  Family* family_ = nullptr;
  // The latest: parameters mostly keep the same numbers.
  struct Advanced {
    std::vector<double> inputs, kept;
  } advanced_;
  // Of this step, which rules hold pointers to.
  Bound<float> floats_;
  Bound<double> doubles_;
  std::size_t floats_used_ = 0, doubles_used_ = 0;
  std::deque<Summed> summed_;
  std::vector<std::shared_ptr<const Traced>> held_;
};

// The name, the defaults if they are numbers, a number's range, and the default if it is none.
using OptionText = std::tuple<std::string, std::vector<double>, std::string, py::object>;

Range range_of(const std::string& name) {
  for (const Range range : {Range::non_negative, Range::unit, Range::closed_unit}) {
    if (name == name_of(range)) return range;
  }
  return Range::any;
}

void define(const std::string& name, std::vector<std::string> states,
            const std::vector<int>& squares, const std::vector<OptionText>& options,
            const std::vector<std::pair<std::string, double>>& kept, bool has_sums,
            py::object trace) {
  if (states.size() > max_states) throw py::value_error("too many states");
  if (is_compiled(name)) throw py::value_error("name: a compiled rule is named '" + name + "'");
  auto made = std::make_shared<Definition>();
  made->states = std::move(states);
  for (int state : squares) made->squares |= 1u << state;
  const auto add = [](std::vector<Option>& to, const std::string& option,
                      const std::vector<double>& numbers, const std::string& range,
                      const py::object& value) {
    PyObject* const interned = PyUnicode_InternFromString(option.c_str());
    to.push_back(
        {option, interned, numbers, range_of(range), numbers.empty() ? value : py::object()});
  };
  for (const auto& [option, numbers, range, value] : options) {
    add(made->options, option, numbers, range, value);
  }
  for (const auto& [number, start] : kept) add(made->kept, number, {start}, "any", py::object());
  made->has_sums = has_sums;
  made->trace = std::move(trace);
  definitions()[name] = std::move(made);
}

// steps, squares, nodes
using StageText = std::tuple<std::vector<std::array<int, 7>>, std::vector<bool>, int>;

std::shared_ptr<Traced> traced(const std::vector<StageText>& stages, int inputs,
                               std::vector<double> constants,
                               const std::vector<std::array<int, 3>>& nodes,
                               const std::vector<std::pair<int, bool>>& guards, int guard_nodes,
                               int arrays, unsigned written, std::vector<int> kept) {
  auto made = std::make_shared<Traced>();
  for (const auto& [steps, squares, known] : stages) {
    Traced::Stage& stage = made->stages.emplace_back(Traced::Stage{{}, squares, known});
    for (const auto& [op, to, a, b, c, s, t] : steps) {
      stage.steps.push_back({static_cast<Op>(op), static_cast<uint8_t>(to), static_cast<uint8_t>(a),
                             static_cast<uint8_t>(b), static_cast<uint8_t>(c), s, t});
    }
  }
  made->inputs = inputs;
  made->constants = std::move(constants);
  for (const auto& [op, a, b] : nodes) made->nodes.push_back({static_cast<NumberOp>(op), a, b});
  for (const auto& [number, answer] : guards) made->guards.push_back({number, answer});
  made->guard_nodes = guard_nodes;
  made->arrays = arrays;
  made->written = written;
  made->kept = std::move(kept);
  const std::string trouble = made->trouble();
  if (!trouble.empty()) throw py::value_error("no program: " + trouble);
  return made;
}

#define FASTOPT_NAME(name) #name,
std::vector<std::string> array_ops() { return {FASTOPT_PROGRAM_OPS(FASTOPT_NAME)}; }
std::vector<std::string> number_ops() { return {FASTOPT_NUMBER_OPS(FASTOPT_NAME)}; }
#undef FASTOPT_NAME

}  // namespace

std::unique_ptr<AnyRule> make_program_rule(const std::string& name) {
  const auto found = definitions().find(name);
  if (found == definitions().end()) return nullptr;
  return std::make_unique<ProgramRule>(found->second);
}

py::dict options_of_program(const std::string& name) {
  py::dict found;
  for (const Option& option : definitions().at(name)->options) {
    const py::str key(option.name);
    if (option.is_free()) {
      if (option.is_flag()) found[key] = py::make_tuple(option.value, "flag");
    } else if (option.numbers.size() == 1) {
      found[key] = py::make_tuple(option.numbers[0], name_of(option.range));
    } else {
      found[key] = py::make_tuple(py::tuple(py::cast(option.numbers)), name_of(option.range));
    }
  }
  return found;
}

void define_rules(py::module_& m) {
  using namespace pybind11::literals;
  py::class_<Traced, std::shared_ptr<Traced>>(m, "Traced",
                                              "A program whose numbers depend on the step.")
      .def(py::init(&traced), "stages"_a, "inputs"_a, "constants"_a, "nodes"_a, "guards"_a,
           "guard_nodes"_a, "arrays"_a, "written"_a, "kept"_a)
      .def(
          "numbers",
          [](const Traced& program, const std::vector<double>& inputs) -> py::object {
            std::vector<double> numbers;
            if (!program.holds(inputs, numbers)) return py::none();
            program.compute(0, numbers);
            return py::cast(numbers);
          },
          "inputs"_a, "The numbers of a step, before any sum; None if another program is its.");
  m.def("define_rule", &define, "name"_a, "states"_a, "squares"_a, "options"_a, "kept"_a,
        "has_sums"_a, "trace"_a, "A rule whose programs `trace` makes.");
  m.def("array_ops", &array_ops, "The instructions, by their numbers.");
  m.def("number_ops", &number_ops, "The operations on numbers, by theirs.");
  m.attr("max_states") = max_states;
  m.attr("first_summand") = first_summand;
  m.attr("max_summands") = max_summands;
  m.attr("first_register") = first_register;
  m.attr("max_registers") = max_registers;
  m.attr("max_instructions") = max_instructions;
}

}  // namespace fastopt
