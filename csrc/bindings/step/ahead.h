// Brings what is read of the next parameters near while one is read.
//
// A step over thousands of small tensors waits for little but their objects, which have left the
// caches: a parameter's, its gradient's and its states', each behind a pointer of the one before.
// So the chains of the next few parameters are followed one link at a time, each link of which has
// been fetched while the parameter before was read. For reading beside which no Python code runs,
// as what has been looked at must still be there.
#pragma once

#include <Python.h>

#include <array>
#include <cstddef>

#include "bindings/step/candidates.h"
#include "bindings/tensor.h"

namespace fastopt {

class Ahead {
 public:
  // Of fewer, whose objects stay in the second-level cache, to look ahead costs more than it
  // brings.
  static bool is_worth(std::size_t candidates) { return candidates >= 1000; }

  // Candidates [begin, end) are read in their order.
  Ahead(const Candidates& candidates, std::size_t begin, std::size_t end)
      : candidates_(candidates), end_(end) {
    for (std::size_t i = begin; i < begin + links && i < end; ++i) {
      for (int link = 0; begin + link <= i; ++link) {
        follow(i - link, link);
      }
    }
  }

  // Before candidate i is read.
  void at(std::size_t i) {
    for (int link = 0; link < links; ++link) {
      const std::size_t next = i + links - link;
      if (next < end_) follow(next, link);
    }
  }

 private:
  using Impl = TensorLayout::Impl;
  static constexpr int links = 5, most = 6;

  // What is known of a parameter on the way.
  struct Chain {
    const Impl *param, *grad;
    int states;
    std::array<PyObject*, most> objects;
    std::array<const Impl*, most> impls;
  };

  void follow(std::size_t i, int link) {
    const Candidate& candidate = candidates_[i];
    Chain& chain = chains_[i % chains_.size()];
    switch (link) {
      case 0:
        chain.states = 0;
        return fetch_objects(candidate);
      case 1:
        return fetch_param(candidate, chain);
      case 2:
        return fetch_entries(candidate, chain);
      case 3:
        return fetch_tensors(chain);
      case 4:
        return fetch_storages(chain);
    }
  }

  static void fetch_objects(const Candidate& candidate) {
    __builtin_prefetch(candidate.param);
    __builtin_prefetch(candidate.entries);
  }

  void fetch_param(const Candidate& candidate, Chain& chain) {
    chain.param = torch_.impl_in_place(candidate.param);
    if (chain.param != nullptr) torch_.prefetch(chain.param);
    PyObject* const entries = candidate.entries;
    if (entries == nullptr || !is_plain_dict(entries)) return;
    const char* const keys =
        reinterpret_cast<const char*>(reinterpret_cast<PyDictObject*>(entries)->ma_keys);
    __builtin_prefetch(keys);
    __builtin_prefetch(keys + 64);
  }

  void fetch_entries(const Candidate& candidate, Chain& chain) {
    PyObject* const entries = candidate.entries;
    if (chain.param != nullptr) {
      torch_.prefetch(chain.param->storage);
      torch_.prefetch_autograd(chain.param);
    }
    if (entries == nullptr || !is_plain_dict(entries)) return;
    PyObject *key, *value;
    Py_ssize_t position = 0;
    while (chain.states < most && PyDict_Next(entries, &position, &key, &value)) {
      __builtin_prefetch(value);
      chain.objects[chain.states++] = value;
    }
  }

  void fetch_tensors(Chain& chain) {
    chain.grad = chain.param == nullptr ? nullptr : torch_.grad_in_place(chain.param);
    if (chain.grad != nullptr) torch_.prefetch(chain.grad);
    for (int k = 0; k < chain.states; ++k) {
      const Impl* const impl = chain.impls[k] = torch_.impl_in_place(chain.objects[k]);
      if (impl != nullptr) torch_.prefetch(impl);
    }
  }

  void fetch_storages(const Chain& chain) {
    if (chain.grad != nullptr) torch_.prefetch(chain.grad->storage);
    for (int k = 0; k < chain.states; ++k) {
      if (chain.impls[k] != nullptr) torch_.prefetch(chain.impls[k]->storage);
    }
  }

  const TorchReader& torch_ = TorchReader::get();
  const Candidates& candidates_;
  const std::size_t end_;
  std::array<Chain, 8> chains_;
};

// Likewise while parameters are collected, of which nothing is asked but whether they have
// gradients.
inline void look_ahead(const TorchReader& torch, PyObject* params, Py_ssize_t i) {
  const Py_ssize_t last = PyTuple_GET_SIZE(params) - 1;
  const auto param = [=](Py_ssize_t ahead) {
    return PyTuple_GET_ITEM(params, i + ahead < last ? i + ahead : last);
  };
  __builtin_prefetch(param(9));
  if (const auto* impl = torch.impl_in_place(param(6))) __builtin_prefetch(&impl->storage);
  if (const auto* impl = torch.impl_in_place(param(3))) torch.prefetch_autograd(impl);
}

}  // namespace fastopt
