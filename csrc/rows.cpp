// Checks the rows of sparse gradients against their parameters, and puts them in order.
#include "rows.hpp"

#include <pybind11/stl.h>

#include <algorithm>
#include <tuple>
#include <utility>
#include <vector>

#include "without_gil.hpp"

namespace py = pybind11;

namespace roofstep {

namespace {

constexpr const char* values_role = "the values in the gradient of parameter ";

// Whether a row that the gradient does not have stays what it is, bit for bit, so that it need not
// be visited. Zeros are zeros still if they are scaled, and clipped to a range that has them in it.
bool rests(const Settings& settings) {
  const Hyper& hyper = settings.hyper;
  const bool decays = hyper.l1 != 0 || hyper.l2 != 0 || hyper.decay != 0;
  const bool zero_stays = settings.scale > 0 && settings.clip_min <= 0 && settings.clip_max >= 0;
  return settings.absent == Absent::resting && zero_stays && !decays && !settings.average_decay;
}

}  // namespace

SparseGradient::SparseGradient(PyObject* gradient, const Subject& subject) : subject_(subject) {
  const py::object ask = py::module_::import("roofstep.tensors").attr("rows_of");
  const py::object found = ask_python(ask, py::handle(gradient), py::str(subject.text()));
  if (found.is_none()) {
    roofstep::view(gradient, subject);
    refuse(subject, "an array of its own memory", "one that changes as it is read", "copy it");
  }
  std::tie(numbers_, values_, height_) =
      found.cast<std::tuple<py::object, py::object, std::optional<std::size_t>>>();
}

Array SparseGradient::view() const {
  return roofstep::view(values_.ptr(), {values_role, subject_.name});
}

void SparseGradient::check(const Settings& settings, const Array& param) const {
  const Subject values_subject{values_role, subject_.name};
  if (settings.absent == Absent::refused) {
    refuse(subject_, "a dense one, as by this optimizer all rows are moved", "a sparse one",
           "pass its to_dense(), or make the layer with sparse=False; of roofstep's own optimizers "
           "SGD, Adagrad, Adam and AdamW take sparse ones");
  }
  if (settings.absent == Absent::left && settings.average_decay) {
    refuse(subject_, "a dense one, as averages of all weights move", "a sparse one in lazy mode",
           "set lazy_mode=False, or stop averaging with average_weights(None)");
  }
  if (!param.c_contiguous || param.ndim == 0) {
    refuse({parameter_role, subject_.name},
           "memory in C order and at least one dimension, as its gradient is sparse",
           param.ndim == 0 ? "no dimensions" : "another order",
           is_tensor(param.object) ? "give it some, as in tensor.data = tensor.data.contiguous()"
                                   : "pass numpy.ascontiguousarray(array)");
  }
  const std::size_t height = static_cast<std::size_t>(param.shape[0]);
  if (height_ && *height_ != height) {
    refuse(subject_, "one of " + std::to_string(height) + " rows in all", std::to_string(*height_),
           "make it of the parameter's shape");
  }
  const Array found = view();
  std::vector<Py_ssize_t> shape(param.shape, param.shape + param.ndim);
  shape[0] = static_cast<Py_ssize_t>(py::len(numbers_));
  if (found.ndim != param.ndim || !std::equal(shape.begin(), shape.end(), found.shape)) {
    refuse(values_subject, "the shape " + tuple_text(shape.data(), param.ndim),
           tuple_text(found.shape, found.ndim), "give it a row of the parameter for each number");
  }
  Array like = param;
  like.shape = shape.data();
  match(found, like, values_subject);
}

Rows SparseGradient::rows_of(const Array& param, bool measured) const {
  const std::size_t count = py::len(numbers_);
  const std::int64_t* const numbers = view_row<std::int64_t>(numbers_.ptr(), count);
  std::vector<std::pair<std::int64_t, std::size_t>> sorted;
  sorted.reserve(count);
  for (std::size_t i = 0; i < count; ++i) {
    const std::int64_t number = numbers[i];  // once: another thread may write there
    if (number < 0 || number >= param.shape[0]) {
      refuse(subject_, "row numbers from 0 to " + std::to_string(param.shape[0] - 1),
             std::to_string(number), "correct what the rows were looked up by");
    }
    sorted.emplace_back(number, i);
  }
  // Together with their positions all are different, so that the order is one alone.
  if (!std::is_sorted(sorted.begin(), sorted.end())) std::sort(sorted.begin(), sorted.end());

  Rows rows{};
  rows.size = param.size;
  rows.positions.reserve(count);
  for (const auto& [number, position] : sorted) {
    const std::size_t row = static_cast<std::size_t>(number);
    if (rows.numbers.empty() || rows.numbers.back() != row) {
      rows.numbers.push_back(row);
      rows.first.push_back(rows.positions.size());
    }
    rows.positions.push_back(position);
  }
  rows.first.push_back(count);
  if (param.size == 0) return rows;
  rows.width = param.size / static_cast<std::size_t>(param.shape[0]);
  for (std::size_t k = 0; measured && k < rows.numbers.size(); ++k) {
    const std::size_t begin = rows.numbers[k] * rows.width, end = begin + rows.width;
    std::size_t block = begin / block_size;
    if (!rows.blocks.empty()) block = std::max(block, rows.blocks.back() + 1);
    for (; block * block_size < end; ++block) rows.blocks.push_back(block);
  }
  return rows;
}

void SparseGradient::put(Tensor& tensor, const Array& param, std::deque<Layout>& layouts) const {
  const Settings& settings = *tensor.settings;
  check(settings, param);
  const Array found = view();
  Array in_order = found;
  in_order.strides = nullptr;
  in_order.c_contiguous = true;
  std::optional<Layout> layout = layout_in_order_of(found, in_order);
  if (!layout) {
    layout.emplace();
    layout->shape = {static_cast<std::ptrdiff_t>(found.size)};
    layout->strides = {static_cast<std::ptrdiff_t>(found.item_size())};
  }
  layout->rows = rows_of(param, tensor.norm >= 0);
  const bool all = settings.absent != Absent::left && !rests(settings);
  tensor.dtype = param.dtype;
  tensor.size = all ? param.size : layout->rows->numbers.size() * layout->rows->width;
  tensor.grad = found.data;
  tensor.grad_layout = &layouts.emplace_back(std::move(*layout));
}

}  // namespace roofstep
