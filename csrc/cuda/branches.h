// Steps by programs whose numbers the device computes: those of sums over a tensor, those of
// numbers that lie there, as the number of the step does in a CUDA graph. Of several programs, all
// that Python's ifs can lead to, each parameter is stepped by the one whose guards hold for it.
#pragma once

#include <algorithm>
#include <vector>

#include "cuda/launchers.h"
#include "cuda/pass.h"
#include "cuda/program_launch.h"
#include "cuda/tail.h"
#include "target.h"

FASTOPT_TARGET_BEGIN

// One program on its way through its stages, and where its scratch lies: offsets of doubles.
class StagesRun {
 public:
  StagesRun(const CudaProgram& program, const CudaBranches& branches, const CudaStep& step,
            int64_t& scratch_size)
      : program_(program),
        branches_(branches),
        step_(step),
        numbers_(take(scratch_size, count() * numbers_of_an_item())) {
    for (int k = 0; k + 1 < program_.stage_count; ++k) {
      sums_[k] = take(scratch_size, count() * program_.stages[k].summands);
      most_ = std::max(most_, program_.stages[k].summands);
    }
    if (most_ == 0) return;
    const int64_t before = scratch_size;
    for (int64_t i = 0; i < count(); ++i) {
      partials_.push_back(take(scratch_size, most_ * chunks_of_item(i)));
    }
    const int64_t level = (scratch_size - before) / sum_chunk + most_ * count();
    for (int64_t& its : levels_) its = take(scratch_size, level);
  }

  // Before any program's step writes.
  const char* begin(double* scratch, void* stream) {
    scratch_ = scratch;
    stream_ = stream;
    return find_numbers(0);
  }

  template <class T>
  const char* run() {
    for (int k = 0; k < program_.stage_count; ++k) {
      const CudaStage& stage = program_.stages[k];
      if (k > 0) {
        if (const char* error = find_numbers(k)) return error;
      }
      const StageShape shape = {stage.length,   program_.arrays,
                                stage.summands, stage.summands == 0 ? program_.written : 0,
                                stage.squares,  program_.number_count};
      const auto its = [this](int64_t i) {
        return OwnNumbers{numbers_of(i), most_ == 0 ? nullptr : scratch_ + partials_[i]};
      };
      if (const char* error = run_stage<T>(shape, stage, step_, its, stream_)) return error;
      if (stage.summands == 0) return nullptr;
      if (const char* error = add_up(k)) return error;
    }
    return nullptr;
  }

  // What becomes of the numbers that parameters keep.
  void keep(std::vector<Keep::Entry>& entries) const {
    const int first = branches_.given_count - program_.kept_count;
    for (int64_t i = 0; i < count(); ++i) {
      const double* const numbers = numbers_of(i);
      const CudaNumber* const given = branches_.given + i * branches_.given_count + first;
      for (int k = 0; k < program_.kept_count; ++k) {
        entries.push_back({numbers + program_.number_count, numbers + program_.kept[k], given[k]});
      }
    }
  }

 private:
  static int64_t take(int64_t& size, int64_t count) {
    size += count;
    return size - count;
  }

  // Packed items stand behind the others.
  int64_t count() const { return step_.count + step_.packed_count; }
  const CudaItem& item_at(int64_t i) const {
    return i < step_.count ? step_.items[i] : step_.packed[i - step_.count];
  }

  // An empty item has a sum, too, which nothing asks for.
  int64_t chunks_of_item(int64_t item) const {
    return std::max<int64_t>(sum_chunks_of(item_at(item).size), 1);
  }

  // With whether its guards hold.
  int64_t numbers_of_an_item() const { return program_.number_count + 1; }
  double* numbers_of(int64_t item) const {
    return scratch_ + numbers_ + item * numbers_of_an_item();
  }

  // What the items' numbers are after the first `done` stages.
  const char* find_numbers(int done) {
    ProgramNumbersTable table;
    std::copy_n(program_.numbers, program_.number_count, table.initial);
    table.node_count = program_.stages[done].nodes;
    for (int n = 0; n < table.node_count; ++n) {
      const NumberNode& it = program_.nodes[n];
      table.nodes[n] = {it.op, static_cast<uint16_t>(it.a), static_cast<uint16_t>(it.b)};
    }
    table.guard_count = program_.guard_count;
    for (int n = 0; n < table.guard_count; ++n) {
      const CudaProgram::Guard& it = program_.guards[n];
      table.guards[n] = {static_cast<uint16_t>(it.number), it.answer};
    }
    for (int k = 0; k < done; ++k) {
      table.sums[k] = scratch_ + sums_[k];
      table.summands[k] = program_.stages[k].summands;
    }
    table.stages = done;
    table.number_count = program_.number_count;
    table.size_at = program_.size_at;
    table.first_node = program_.first_node;
    table.given_count = branches_.given_count;
    std::copy_n(branches_.given_at, branches_.given_count, table.given_at);
    for (int64_t i = 0; i < count(); i += table.count) {
      table.first = i;
      table.count = static_cast<int>(std::min<int64_t>(count() - i, ProgramNumbersTable::capacity));
      for (int k = 0; k < table.count; ++k) fill(table.entries[k], i + k);
      const int64_t blocks = (table.count + block_threads - 1) / block_threads;
      if (const char* error = launch<ProgramNumbersKernel>(table, blocks, stream_)) return error;
    }
    return nullptr;
  }

  void fill(ProgramNumbersTable::Entry& entry, int64_t item) const {
    entry.numbers = numbers_of(item);
    entry.size = item_at(item).size;
    const int count = branches_.given_count;
    std::copy_n(branches_.given + item * count, count, entry.given);
  }

  // The sums of a stage: those of its chunks by the tree of the norm, level by level.
  const char* add_up(int stage) {
    const int summands = program_.stages[stage].summands;
    std::vector<Values> arrays;
    int64_t longest = 1;
    for (int64_t i = 0; i < count(); ++i) {
      const int64_t chunks = chunks_of_item(i);
      for (int k = 0; k < summands; ++k) {
        arrays.push_back({scratch_ + partials_[i] + k * chunks, chunks, DType::float64});
      }
      longest = std::max(longest, chunks);
    }
    for (int level = 0;; level = 1 - level) {
      longest = sum_chunks_of(longest);
      double* at = scratch_ + (longest == 1 ? sums_[stage] : levels_[level]);
      const char* error =
          sum_chunks(arrays.data(), static_cast<int64_t>(arrays.size()), false, at, stream_);
      if (error != nullptr || longest == 1) return error;
      for (Values& values : arrays) {
        values.data = at;
        values.size = sum_chunks_of(values.size);
        at += values.size;
      }
    }
  }

  const CudaProgram& program_;
  const CudaBranches& branches_;
  const CudaStep& step_;
  double* scratch_ = nullptr;
  void* stream_ = nullptr;
  const int64_t numbers_;
  int64_t sums_[max_program_stages] = {}, levels_[2] = {};
  std::vector<int64_t> partials_;  // of each item
  int most_ = 0;                   // summands
};

// All programs' numbers come of what the last step has kept, so what this one keeps is written
// last.
class BranchesRun {
 public:
  BranchesRun(const CudaBranches& branches, const CudaStep& step) : step_(step) {
    for (int k = 0; k < branches.count; ++k) {
      all_.emplace_back(branches.programs[k], branches, step, size_);
    }
  }

  int64_t size() const { return size_; }

  template <class T>
  const char* run(double* scratch, void* stream) {
    for (StagesRun& one : all_) {
      if (const char* error = one.begin(scratch, stream)) return error;
    }
    std::vector<Keep::Entry> kept;
    for (StagesRun& one : all_) {
      if (const char* error = one.template run<T>()) return error;
      one.keep(kept);
    }
    const int64_t count = static_cast<int64_t>(kept.size());
    return for_numbers(Keep{}, kept.data(), count, step_.found_inf, stream);
  }

 private:
  const CudaStep& step_;
  int64_t size_ = 0;
  std::vector<StagesRun> all_;
};

FASTOPT_TARGET_END
