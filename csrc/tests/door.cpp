// Steps a matrix by the compiled door as told on standard input, for cross-compiled tests.
//
// Input: a Case, the matrix, a gradient of it, row numbers, the gradients of these rows. Output:
// the matrix and its moments after the steps of AdamW by the whole gradient, then those by the
// rows, and the sum of squares of the gradient. Usage: door ISA
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <vector>

#include "compiled.hpp"
#include "dispatch.hpp"

namespace {

constexpr const roofstep_kernels& door = roofstep::compiled_door;

// As csrc/tests/test_bits.py packs it.
struct Case {
  std::int64_t dtype, height, width, count, steps;
  double learning_rate, beta1, beta2, epsilon, weight_decay;
};

template <class T>
std::vector<T> receive(std::int64_t count) {
  std::vector<T> values(static_cast<std::size_t>(count));
  if (std::fread(values.data(), sizeof(T), values.size(), stdin) != values.size()) std::exit(3);
  return values;
}

template <class T>
void send(const std::vector<T>& values) {
  if (std::fwrite(values.data(), sizeof(T), values.size(), stdout) != values.size()) std::exit(4);
}

// Calls update(matrix, moment1, moment2, t) for each step, from zero moments.
template <class T, class Update>
void step(std::vector<T> matrix, std::int64_t steps, const Update& update) {
  std::vector<T> moment1(matrix.size()), moment2(matrix.size());
  for (std::int64_t t = 1; t <= steps; ++t) {
    if (update(matrix.data(), moment1.data(), moment2.data(), t) != ROOFSTEP_OK) std::exit(5);
  }
  send(matrix);
  send(moment1);
  send(moment2);
}

template <class T, class Whole, class OfRows, class Sum>
void answer(const Case& told, Whole whole, OfRows of_rows, Sum sum_squares) {
  const auto size = told.height * told.width;
  const auto matrix = receive<T>(size), grad = receive<T>(size);
  const auto rows = receive<std::int64_t>(told.count);
  const auto row_grad = receive<T>(told.count * told.width);
  step(matrix, told.steps, [&](T* param, T* moment1, T* moment2, std::int64_t t) {
    return whole(param, grad.data(), moment1, moment2, size, told.learning_rate, told.beta1,
                 told.beta2, told.epsilon, told.weight_decay, t);
  });
  step(matrix, told.steps, [&](T* param, T* moment1, T* moment2, std::int64_t t) {
    return of_rows(param, row_grad.data(), moment1, moment2, rows.data(), told.count, told.height,
                   told.width, told.learning_rate, told.beta1, told.beta2, told.epsilon,
                   told.weight_decay, t);
  });
  send(std::vector<double>{sum_squares(grad.data(), size)});
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) return 2;
  roofstep::select_isa(argv[1]);
  const Case told = receive<Case>(1)[0];
  if (told.dtype) {
    answer<double>(told, door.adamw_f64, door.adamw_rows_f64, door.sum_squares_f64);
  } else {
    answer<float>(told, door.adamw_f32, door.adamw_rows_f32, door.sum_squares_f32);
  }
}
