// How a gradient is read: as it lies, in the order of its parameter, or row by row if it is sparse.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <vector>

#include "engine.hpp"

namespace roofstep {

template <class Element>
Element* at(void* base, std::size_t index) {
  return static_cast<Element*>(base) + index;
}

// The same, of what may be null and is not used then.
template <class Element>
void* at_if_there(void* base, std::size_t index) {
  return reinterpret_cast<void*>(reinterpret_cast<std::uintptr_t>(base) + index * sizeof(Element));
}

// Calls visit(address, stride, count) for each row of elements `begin` to `end` of a layout.
template <class Visit>
void for_each_row(const Layout& layout, char* base, std::size_t begin, std::size_t end,
                  const Visit& visit) {
  const std::size_t last = layout.shape.size() - 1;
  const std::size_t width = static_cast<std::size_t>(layout.shape[last]);
  while (begin < end) {
    char* address = base;
    std::size_t rest = begin;
    for (std::size_t d = last + 1; d-- > 0;) {
      const std::size_t extent = static_cast<std::size_t>(layout.shape[d]);
      address += static_cast<std::ptrdiff_t>(rest % extent) * layout.strides[d];
      rest /= extent;
    }
    const std::size_t count = std::min(width - begin % width, end - begin);
    visit(address, layout.strides[last], count);
    begin += count;
  }
}

template <class Element>
void gather(const Layout& layout, void* base, std::size_t begin, std::size_t end, void* out) {
  Element* to = static_cast<Element*>(out);
  for_each_row(layout, static_cast<char*>(base), begin, end,
               [&](const char* from, std::ptrdiff_t stride, std::size_t count) {
                 for (; count; --count, from += stride) {
                   std::memcpy(to++, from, sizeof(Element));
                 }
               });
}

template <class Element>
void clear(const Layout& layout, void* base, std::size_t begin, std::size_t end) {
  for_each_row(layout, static_cast<char*>(base), begin, end,
               [](char* to, std::ptrdiff_t stride, std::size_t count) {
                 for (; count; --count, to += stride) std::memset(to, 0, sizeof(Element));
               });
}

// Of a sparse gradient: zeros, and to them are added the values of each row in their order.
template <class Element>
void add_up(const Layout& layout, void* base, std::size_t begin, std::size_t end, void* out) {
  const Rows& rows = *layout.rows;
  Element* const sums = static_cast<Element*>(out);
  std::fill(sums, sums + (end - begin), Element(0));
  const auto& numbers = rows.numbers;
  const auto found = std::lower_bound(numbers.begin(), numbers.end(), begin / rows.width);
  for (std::size_t k = found - numbers.begin(); k < numbers.size(); ++k) {
    const std::size_t row = numbers[k] * rows.width;
    if (row >= end) break;
    const std::size_t from = std::max(row, begin), to = std::min(row + rows.width, end);
    for (std::size_t p = rows.first[k]; p < rows.first[k + 1]; ++p) {
      Element* sum = sums + (from - begin);
      const std::size_t value = rows.positions[p] * rows.width + (from - row);
      for_each_row(layout, static_cast<char*>(base), value, value + (to - from),
                   [&](const char* address, std::ptrdiff_t stride, std::size_t count) {
                     for (; count; --count, address += stride) {
                       *sum++ += *reinterpret_cast<const Element*>(address);
                     }
                   });
    }
  }
}

// Elements `begin` to `end` of a gradient, at most a block, in the order of the parameter's memory.
template <class Element>
const void* read(const Tensor& tensor, std::size_t begin, std::size_t end, void* buffer) {
  if (!tensor.grad_layout) return at<Element>(tensor.grad, begin);
  const auto fill = tensor.grad_layout->rows ? add_up<Element> : gather<Element>;
  fill(*tensor.grad_layout, tensor.grad, begin, end, buffer);
  return buffer;
}

// The rows that alone are visited; null if all elements are.
inline const Rows* visited_rows(const Tensor& tensor) {
  const bool sparse = tensor.grad_layout && tensor.grad_layout->rows;
  return sparse && tensor.size < tensor.grad_layout->rows->size ? &*tensor.grad_layout->rows
                                                                : nullptr;
}

// Calls visit(begin, end) for each run of adjacent elements of the parameter that elements `begin`
// to `end` of these rows are.
template <class Visit>
void for_each_run(const Rows& rows, std::size_t begin, std::size_t end, const Visit& visit) {
  while (begin < end) {
    const std::size_t k = begin / rows.width, offset = begin % rows.width;
    std::size_t next = k + 1;
    while (next * rows.width < end && rows.numbers[next] == rows.numbers[next - 1] + 1) ++next;
    const std::size_t stop = std::min(next * rows.width, end);
    const std::size_t from = rows.numbers[k] * rows.width + offset;
    visit(from, from + (stop - begin));
    begin = stop;
  }
}

// Of a block of a sparse gradient there is written down only where all lanes pass over the same
// row of elements, one of which at least is in a row that is there: zeros change no sum.
template <class Element>
std::size_t pack(const Tensor& tensor, std::size_t block, void* buffer) {
  const Rows& rows = *tensor.grad_layout->rows;
  const std::size_t begin = block * block_size, end = std::min(begin + block_size, rows.size);
  const auto& numbers = rows.numbers;
  auto row = std::lower_bound(numbers.begin(), numbers.end(), begin / rows.width);
  std::size_t packed = 0;
  for (std::size_t done = begin; row != numbers.end() && *row * rows.width < end; ++row) {
    const std::size_t last = *row * rows.width + rows.width;
    const std::size_t from = std::max(*row * rows.width / lanes * lanes, done);
    const std::size_t to = std::min((last + lanes - 1) / lanes * lanes, end);
    if (from >= to) continue;
    add_up<Element>(*tensor.grad_layout, tensor.grad, from, to, at<Element>(buffer, packed));
    packed += to - from;
    done = to;
  }
  return packed;
}

}  // namespace roofstep
