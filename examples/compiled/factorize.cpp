// Completes a matrix by a product of two thin ones, in threads of its own and without the GIL.
//
// Entry (u, i) is taken to be users[u] . items[i]. In turns every row of `users` takes a step of
// AdamW by the entries that are known of it, then every row of `items`. The rows of one side depend
// on the other side alone: no locks, and the same bits for any number of threads.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <roofstep/roofstep.h>

#include <algorithm>
#include <atomic>
#include <stdexcept>
#include <thread>
#include <vector>

namespace py = pybind11;

namespace {

const roofstep_kernels* kernels;

using Matrix = py::array_t<float, py::array::c_style>;

struct Entry {
  ptrdiff_t column;
  float value;
};

// One factor with the states of its rows, and what is known of each.
struct Side {
  float* factor;
  ptrdiff_t height, width;
  std::vector<float> moment1, moment2;
  std::vector<std::vector<Entry>> known;

  explicit Side(Matrix& matrix)
      : factor(matrix.mutable_data()),
        height(matrix.shape(0)),
        width(matrix.shape(1)),
        moment1(height * width),
        moment2(height * width),
        known(height) {}
};

struct Settings {
  double learning_rate, weight_decay;
  int threads;
};

// Updates the rows from `begin` to `end` by the mean of their squared errors; 0 if none is refused.
int update(Side& side, const Side& other, const Settings& settings, int64_t t, ptrdiff_t begin,
           ptrdiff_t end) {
  const ptrdiff_t width = side.width;
  int refused = ROOFSTEP_OK;
  std::vector<float> gradient(side.width);
  for (ptrdiff_t row = begin; row < end; ++row) {
    const std::vector<Entry>& known = side.known[row];
    if (known.empty()) continue;
    float* own = side.factor + row * width;
    std::fill(gradient.begin(), gradient.end(), 0.0f);
    for (const Entry& entry : known) {
      const float* theirs = other.factor + entry.column * width;
      float error = -entry.value;
      for (ptrdiff_t k = 0; k < width; ++k) error += own[k] * theirs[k];
      for (ptrdiff_t k = 0; k < width; ++k) gradient[k] += error * theirs[k] / float(known.size());
    }
    refused |= kernels->adamw_f32(own, gradient.data(), side.moment1.data() + row * width,
                                  side.moment2.data() + row * width, width, settings.learning_rate,
                                  0.9, 0.999, 1e-8, settings.weight_decay, t);
  }
  return refused;
}

// Updates all rows of a side, a share of them in each thread.
void update(Side& side, const Side& other, const Settings& settings, int64_t t) {
  std::vector<std::thread> threads;
  std::atomic<int> refused{ROOFSTEP_OK};
  for (int i = 0; i < settings.threads; ++i)
    threads.emplace_back([&, i] {
      refused |= update(side, other, settings, t, side.height * i / settings.threads,
                        side.height * (i + 1) / settings.threads);
    });
  for (std::thread& thread : threads) thread.join();
  if (refused) throw std::runtime_error("a kernel has refused its arguments");
}

void factorize(Matrix users, Matrix items, const py::array_t<int64_t>& rows,
               const py::array_t<int64_t>& columns, const py::array_t<float>& values, int epochs,
               double learning_rate, double weight_decay, int threads) {
  if (users.ndim() != 2 || items.ndim() != 2 || users.shape(1) != items.shape(1))
    throw std::invalid_argument("expected users and items with the same number of columns");
  if (rows.shape(0) != values.shape(0) || columns.shape(0) != values.shape(0))
    throw std::invalid_argument("expected a row and a column for each value");
  if (threads < 1) throw std::invalid_argument("expected a thread or more");
  Side by_user(users), by_item(items);
  auto row = rows.unchecked<1>(), column = columns.unchecked<1>();
  auto value = values.unchecked<1>();
  for (ptrdiff_t i = 0; i < value.shape(0); ++i) {
    by_user.known.at(row(i)).push_back({column(i), value(i)});
    by_item.known.at(column(i)).push_back({row(i), value(i)});
  }
  const Settings settings{learning_rate, weight_decay, threads};
  py::gil_scoped_release released;
  for (int64_t t = 1; t <= epochs; ++t) {
    update(by_user, by_item, settings, t);
    update(by_item, by_user, settings, t);
  }
}

}  // namespace

PYBIND11_MODULE(factorize, m) {
  kernels = roofstep_import();
  if (!kernels) throw py::error_already_set();
  m.def("factorize", factorize, py::arg("users").noconvert(), py::arg("items").noconvert(),
        py::arg("rows"), py::arg("columns"), py::arg("values"), py::arg("epochs"),
        py::arg("learning_rate"), py::arg("weight_decay") = 0.0, py::arg("threads") = 1,
        "Moves `users` and `items` until their product has the entries values[k] at "
        "(rows[k], columns[k]).");
}
