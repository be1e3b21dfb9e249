// Cuts the tensors into pieces of work, takes the norms, runs the kernels over the pieces.
#include "engine.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "dispatch.hpp"
#include "floating_point.hpp"
#include "reading.hpp"
#include "squares.hpp"
#include "threads.hpp"

namespace roofstep {

namespace {

// Two cores inside one neighbourhood of memory slow each other down: smaller pieces cost 8-31 %.
// Less work than this is for one thread.
constexpr std::size_t piece_size = 16 * block_size;

// So little that it may lie in the caches is cut finer: what counts there is that all are done at
// the same time.
constexpr std::size_t least_piece_size = 4 * block_size;
constexpr std::size_t pieces_per_thread = 4;

std::size_t block_count(std::size_t size) { return (size + block_size - 1) / block_size; }

// A piece of work goes from one place in the row of all tensors to the next.
struct Place {
  std::size_t tensor, offset;
};

// Threads that have fallen asleep are not woken for less.
constexpr std::size_t worth_waking = 4 * piece_size;

// The work of a step: for so many threads, pieces from each place to the next.
struct Work {
  std::vector<Share> shares;  // one for each thread, none for the calling one alone
  std::vector<Place> places;
  bool of_one;  // so little that it is for one thread whatever there is
};

// Only whole blocks are cut off a tensor, so that no block's sum of squares spans two pieces. 0
// threads are the default, which asks the system and so is left alone for what is on one anyway.
Work cut(const std::vector<Tensor>& tensors, int threads) {
  std::size_t total = 0;
  for (const Tensor& tensor : tensors) total += tensor.size;
  if (!threads) threads = total < piece_size ? 1 : default_threads();
  if (total < worth_waking) threads = threads_for_little(threads);
  // Of a single piece two threads have half each.
  const std::size_t most = std::max<std::size_t>((total + piece_size - 1) / piece_size, 2);
  const std::size_t team = std::min(static_cast<std::size_t>(threads), most);
  const bool of_one = total < piece_size;
  if (of_one || team < 2) return {{}, {{0, 0}, {tensors.size(), 0}}, of_one};

  const std::size_t share = total / (pieces_per_thread * team);
  const std::size_t size = std::clamp(share, least_piece_size, piece_size);
  std::vector<Place> places{{0, 0}};
  std::size_t room = size;
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    for (std::size_t offset = 0; offset < tensors[i].size;) {
      if (room == 0) {
        places.push_back({i, offset});
        room = size;
      }
      const std::size_t whole = block_count(room) * block_size;
      const std::size_t taken = std::min(tensors[i].size - offset, whole);
      offset += taken;
      room -= std::min(room, taken);
    }
  }
  places.push_back({tensors.size(), 0});
  return {std::vector<Share>(team), std::move(places), false};
}

// Calls visit(tensor index, begin, end) for every tensor's part of every piece. A tensor may be
// smaller than it was when the work was cut.
template <class Visit>
void for_each_part(const std::vector<Tensor>& tensors, Work& work, const Visit& visit) {
  for_each_index(work.places.size() - 1, work.shares, [&](std::size_t k) {
    const Place first = work.places[k], last = work.places[k + 1];
    for (std::size_t i = first.tensor; i <= last.tensor && i < tensors.size(); ++i) {
      const std::size_t size = tensors[i].size;
      const std::size_t begin = i == first.tensor ? first.offset : 0;
      const std::size_t end = i == last.tensor ? std::min(last.offset, size) : size;
      if (begin < end) visit(i, begin, end);
    }
  });
  if (!work.of_one) rest();
}

// What is a factor on a tensor and known only once all its elements have been seen.
struct Factors {
  double gradient, trust;
};

template <class Element>
Run run_of(const Tensor& tensor, Factors factors, std::size_t begin, std::size_t end,
           void* buffer) {
  Run run;
  run.n = end - begin;
  run.param = at<Element>(tensor.param, begin);
  run.grad = read<Element>(tensor, begin, end, buffer);
  for (int s = 0; s < max_states; ++s) {
    run.states[s] = at_if_there<Element>(tensor.states[s], begin);
  }
  run.scale = tensor.settings->scale * factors.gradient;
  run.clip_min = tensor.settings->clip_min;
  run.clip_max = tensor.settings->clip_max;
  run.trust = factors.trust;
  run.measured = nullptr;
  run.fetch_ahead = visited_rows(tensor) ? 0 : fetch_ahead();  // what lies ahead is not visited
  return run;
}

// The weight of the new value in the mean that the user asks for, or else the rule.
double mean_weight(const Tensor& tensor) {
  const std::optional<double>& decay = tensor.settings->average_decay;
  return decay ? 1 - *decay : tensor.prepared->weight;
}

template <class Element>
void clear_part(const Tensor& tensor, std::size_t begin, std::size_t end) {
  if (tensor.grad_layout) {
    clear<Element>(*tensor.grad_layout, tensor.grad, begin, end);
  } else {
    std::memset(at<Element>(tensor.grad, begin), 0, (end - begin) * sizeof(Element));
  }
}

template <class Element>
void update(const Kernels& kernels, const Tensor& tensor, Factors factors, std::size_t begin,
            std::size_t end) {
  alignas(64) unsigned char buffer[block_size * sizeof(Element)];
  const bool by_blocks = tensor.clear_grad || tensor.grad_layout || tensor.average;
  const std::size_t stride = by_blocks ? block_size : end - begin;
  for (; begin < end; begin += stride) {
    const std::size_t stop = std::min(begin + stride, end);
    const Run run = run_of<Element>(tensor, factors, begin, stop, buffer);
    tensor.prepared->loop(*tensor.prepared, run);
    if (tensor.average) {
      kernels.average[static_cast<int>(tensor.dtype)](at<Element>(tensor.average, begin), run.param,
                                                      run.n, mean_weight(tensor));
    }
    if (tensor.clear_grad) clear_part<Element>(tensor, begin, stop);
  }
}

// How many blocks of a tensor may hold anything but zeros.
std::size_t filled_blocks(const Tensor& tensor) {
  const bool sparse = tensor.grad_layout && tensor.grad_layout->rows;
  return sparse ? tensor.grad_layout->rows->blocks.size() : block_count(tensor.size);
}

// The sums of squares of tensors. Every block is summed by itself and the sums are added in order:
// no thread is seen in the bits.
class Sums {
 public:
  Sums() = default;
  template <class Wanted>
  Sums(const std::vector<Tensor>& tensors, const Wanted& wanted) : first_(tensors.size() + 1, 0) {
    for (std::size_t i = 0; i < tensors.size(); ++i) {
      first_[i + 1] = first_[i] + (wanted(tensors[i]) ? filled_blocks(tensors[i]) : 0);
    }
    blocks_.resize(first_.back());
  }
  BlockSum* of(std::size_t tensor) { return blocks_.data() + first_[tensor]; }
  BlockSum& at(std::size_t tensor, std::size_t begin) { return of(tensor)[begin / block_size]; }
  SumSquares total(std::size_t tensor) const {
    SumSquares total;
    for (std::size_t b = first_[tensor]; b < first_[tensor + 1]; ++b) total.add(blocks_[b]);
    return total;
  }

 private:
  std::vector<std::size_t> first_;
  std::vector<BlockSum> blocks_;
};

// The blocks of a sparse gradient that fall to elements `begin` to `end` of all that are visited.
template <class Element>
void measure_rows(const Kernels& kernels, const Tensor& tensor, std::size_t begin, std::size_t end,
                  BlockSum* sums) {
  alignas(64) unsigned char buffer[block_size * sizeof(Element)];
  const std::vector<std::size_t>& blocks = tensor.grad_layout->rows->blocks;
  const std::size_t parts = block_count(tensor.size);
  const std::size_t share = (blocks.size() + parts - 1) / parts;
  const std::size_t last = std::min(block_count(end) * share, blocks.size());
  for (std::size_t b = begin / block_size * share; b < last; ++b) {
    kernels.sum_squares[static_cast<int>(tensor.dtype)](
        buffer, pack<Element>(tensor, blocks[b], buffer), 0, sums + b);
  }
}

template <class Element>
void measure_grad(const Kernels& kernels, const Tensor& tensor, std::size_t begin, std::size_t end,
                  BlockSum* sums) {
  alignas(64) unsigned char buffer[block_size * sizeof(Element)];
  const std::size_t stride = tensor.grad_layout ? block_size : end - begin;
  for (; begin < end; begin += stride, ++sums) {
    const std::size_t stop = std::min(begin + stride, end);
    kernels.sum_squares[static_cast<int>(tensor.dtype)](read<Element>(tensor, begin, stop, buffer),
                                                        stop - begin, fetch_ahead(), sums);
  }
}

bool has_norm(const Tensor& tensor) { return tensor.norm >= 0; }

void take_sums(const Kernels& kernels, const std::vector<Tensor>& tensors, Work& work, Sums& sums) {
  for_each_part(tensors, work, [&](std::size_t i, std::size_t begin, std::size_t end) {
    const Tensor& tensor = tensors[i];
    if (!has_norm(tensor)) return;
    if (tensor.grad_layout && tensor.grad_layout->rows) {
      const auto measure_part =
          tensor.dtype == Dtype::f32 ? measure_rows<float> : measure_rows<double>;
      return measure_part(kernels, tensor, begin, end, sums.of(i));
    }
    const auto measure_part =
        tensor.dtype == Dtype::f32 ? measure_grad<float> : measure_grad<double>;
    measure_part(kernels, tensor, begin, end, &sums.at(i, begin));
  });
}

double factor_of(const Tensor& tensor, double unscale, const std::vector<Norm>& norms) {
  if (tensor.unscaled) unscale = 1;
  return tensor.norm < 0 ? unscale : unscale * clip_factor(norms[tensor.norm]);
}

// A NaN norm makes NaN of the zeros as well, and then no row rests.
bool may_wake(const Tensor& tensor) {
  return visited_rows(tensor) && tensor.settings->absent != Absent::left && has_norm(tensor);
}

// Whether any row was woken.
bool wake_rows(std::vector<Tensor>& tensors, const std::vector<Norm>& norms) {
  const auto is_nan = [](const Norm& norm) { return std::isnan(double(norm.value)); };
  if (std::none_of(norms.begin(), norms.end(), is_nan)) return false;
  bool any = false;
  for (Tensor& tensor : tensors) {
    if (!may_wake(tensor) || !is_nan(norms[tensor.norm])) continue;
    tensor.size = tensor.grad_layout->rows->size;
    any = true;
  }
  return any;
}

// The work if all rows were woken; none if none can be.
std::optional<Work> cut_awake(const std::vector<Tensor>& tensors, int threads) {
  if (std::none_of(tensors.begin(), tensors.end(), may_wake)) return std::nullopt;
  std::vector<Tensor> awake = tensors;
  for (Tensor& tensor : awake) {
    if (may_wake(tensor)) tensor.size = tensor.grad_layout->rows->size;
  }
  return cut(awake, threads);
}

template <class Element>
void measure_update(const Kernels& kernels, const Tensor& tensor, double factor, std::size_t begin,
                    std::size_t end, BlockSum* params, BlockSum* measured) {
  alignas(64) unsigned char buffer[block_size * sizeof(Element)], out[sizeof buffer];
  const auto sum_squares = kernels.sum_squares[static_cast<int>(tensor.dtype)];
  for (; begin < end; begin += block_size) {
    const std::size_t stop = std::min(begin + block_size, end);
    Run run = run_of<Element>(tensor, {factor, 1}, begin, stop, buffer);
    run.measured = out;
    tensor.prepared->measure(*tensor.prepared, run);
    sum_squares(run.param, run.n, 0, params++);
    sum_squares(out, run.n, 0, measured++);
  }
}

bool adapts(const Tensor& tensor) { return tensor.step_count && tensor.settings->adapts; }

// The trust ratio of every tensor that adapts, by a pass that computes the updates and stores
// nothing.
void take_ratios(const Kernels& kernels, const std::vector<Tensor>& tensors, Work& work,
                 double unscale, const std::vector<Norm>& norms, Sums& params, Sums& updates,
                 std::vector<double>& ratios) {
  for_each_part(tensors, work, [&](std::size_t i, std::size_t begin, std::size_t end) {
    const Tensor& tensor = tensors[i];
    if (!adapts(tensor)) return;
    const auto measure_part =
        tensor.dtype == Dtype::f32 ? measure_update<float> : measure_update<double>;
    measure_part(kernels, tensor, factor_of(tensor, unscale, norms), begin, end,
                 &params.at(i, begin), &updates.at(i, begin));
  });
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    const Tensor& tensor = tensors[i];
    if (!adapts(tensor)) continue;
    ratios[i] = kernels.rules[tensor.settings->rule].trust(
        tensor.settings->hyper, params.total(i).norm(), updates.total(i).norm());
  }
}

}  // namespace

struct Pass::Memory {
  Work work;
  std::optional<Work> awake;
  Sums squares;
  std::vector<SumSquares> totals;  // for each norm
  std::vector<double> ratios;      // for each tensor if any adapts; else none
  Sums params, updates;

  Memory(const std::vector<Tensor>& tensors, std::size_t norms, int threads)
      : work(cut(tensors, threads)), totals(norms) {
    if (norms) {
      squares = Sums(tensors, has_norm);
      awake = cut_awake(tensors, threads);
    }
    if (std::any_of(tensors.begin(), tensors.end(), adapts)) {
      ratios.assign(tensors.size(), 1);
      params = updates = Sums(tensors, adapts);
    }
  }
};

Pass::Pass(const Kernels& kernels, std::vector<Tensor>& tensors, std::vector<Norm>& norms,
           int threads, double grad_scale)
    : kernels_(kernels),
      tensors_(tensors),
      norms_(norms),
      unscale_(1 / grad_scale),
      memory_(new Memory(tensors, norms.size(), threads)) {}

Pass::~Pass() = default;

std::ptrdiff_t Pass::measure() noexcept {
  measured_ = true;
  std::ptrdiff_t first = -1;
  if (norms_.empty()) return first;
  const DefaultFloatingPoint mode;
  Memory& memory = *memory_;
  take_sums(kernels_, tensors_, memory.work, memory.squares);
  for (std::size_t i = 0; i < tensors_.size(); ++i) {
    if (!has_norm(tensors_[i])) continue;
    const SumSquares total = memory.squares.total(i);
    memory.totals[tensors_[i].norm].add(total);
    if (first < 0 && !total.finite()) first = static_cast<std::ptrdiff_t>(i);
  }
  for (std::size_t k = 0; k < norms_.size(); ++k) {
    norms_[k].value = unscale_ * memory.totals[k].norm();
    norms_[k].finite = memory.totals[k].finite();
  }
  return first;
}

void Pass::write() noexcept {
  if (!measured_) measure();
  const DefaultFloatingPoint mode;
  Memory& memory = *memory_;
  Work& work = wake_rows(tensors_, norms_) ? *memory.awake : memory.work;
  if (!memory.ratios.empty()) {
    take_ratios(kernels_, tensors_, work, unscale_, norms_, memory.params, memory.updates,
                memory.ratios);
  }
  for_each_part(tensors_, work, [&](std::size_t i, std::size_t begin, std::size_t end) {
    const Tensor& tensor = tensors_[i];
    const Factors factors{factor_of(tensor, unscale_, norms_),
                          memory.ratios.empty() ? 1 : memory.ratios[i]};
    const auto update_part = tensor.dtype == Dtype::f32 ? update<float> : update<double>;
    const Rows* const rows = visited_rows(tensor);
    if (!rows) return update_part(kernels_, tensor, factors, begin, end);
    for_each_run(*rows, begin, end, [&](std::size_t from, std::size_t to) {
      update_part(kernels_, tensor, factors, from, to);
    });
  });
  for (const Tensor& tensor : tensors_) {
    if (!tensor.step_count) continue;
    ++*tensor.step_count;
    if (tensor.carried) *tensor.carried = tensor.prepared->carried;
  }
}

double clip_factor(const Norm& norm) {
  const double value = norm.value;
  if (std::isnan(value)) return value;
  return value > norm.limit ? norm.limit / value : 1;
}

void clear_gradients(const std::vector<Tensor>& tensors) noexcept {
  for (const Tensor& tensor : tensors) {
    if (!tensor.size || !tensor.clear_grad) continue;
    const auto clear_all = tensor.dtype == Dtype::f32 ? clear_part<float> : clear_part<double>;
    clear_all(tensor, 0, tensor.size);
  }
}

float stream(const Kernels& kernels, const std::vector<float*>& updated,
             const std::vector<float*>& read, std::size_t size, int threads) {
  std::vector<Tensor> whole(1);
  whole[0].size = size;
  float seen = 0;
  Work work = cut(whole, threads);
  for_each_part(whole, work, [&](std::size_t, std::size_t begin, std::size_t end) {
    float *to[most_updated], *from[most_read];
    for (std::size_t i = 0; i < updated.size(); ++i) to[i] = updated[i] + begin;
    for (std::size_t i = 0; i < read.size(); ++i) from[i] = read[i] + begin;
    const float sum =
        kernels.stream[updated.size()][read.size()](to, from, end - begin, fetch_ahead());
#ifdef _OPENMP
#pragma omp atomic
#endif
    seen += sum;
  });
  return seen;
}

}  // namespace roofstep
