/* The kernels of roofstep for compiled callers: plain C, on the calling thread, without Python.
 *
 * A table of functions in the manner of BLAS level 1, for loops with pointers and threads of their
 * own. `roofstep_import()` gives the table; this header is all that is needed to compile, and
 * nothing is linked. The directory to include from is `roofstep.get_include()`.
 *
 * Arguments: the parameter, its gradient, the states, the number of elements, the learning rate,
 * the settings, and for rules that correct their bias the step count t, which is 1 for the first
 * update. The parameter and the states are updated in place; states begin as zeros. No two arrays
 * overlap. The bits are those of the classes of the same names in Python, for every instruction
 * set. Settings are used as they are, and no value of theirs is an error: betas and rho are meant
 * to lie in [0, 1), and of a NaN, or of a learning rate that float32 cannot hold, come NaN and
 * infinity.
 *
 * The `rows` form updates some rows of a matrix, such as an embedding table: `param` and the states
 * are `height` rows of `width` elements, `grad` is `count` rows of `width`, and rows[i] is the
 * number of the row that the i-th is the gradient of. Numbers ascend; the gradients of equal ones
 * are added up in their order, starting from 0, and make one update. Other rows are left as they
 * are.
 *
 * Every function returns a roofstep_status: the first of these that holds, in the order of sizes,
 * pointers, row numbers, t. Unless it is ROOFSTEP_OK, nothing has been written. The rounding and
 * denormal modes of the thread are set for the call and restored; the flags that arithmetic raises
 * are not kept. A call takes no memory but some 6 KB of the stack.
 */
#ifndef ROOFSTEP_H
#define ROOFSTEP_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Goes up when functions are appended to the table; what is there never changes. */
#define ROOFSTEP_VERSION 1

/* The name of the PyCapsule that holds the table. */
#define ROOFSTEP_CAPSULE "roofstep._core.kernels"

/* From here to the end of the table there are plain declarations only, so that cffi and other
 * readers of C take them as they are. */
enum roofstep_status {
  ROOFSTEP_OK = 0,
  /* An array is NULL though there are elements, or rows is NULL though there is a count, or
     mean_grad is not NULL in a rule that is not centered. */
  ROOFSTEP_BAD_POINTER = 1,
  /* n, count, height or width is negative, or no memory is so large. */
  ROOFSTEP_BAD_SIZE = 2,
  /* A row number is below 0, not below height, or below the one before. */
  ROOFSTEP_BAD_ROWS = 3,
  /* t is below 1. */
  ROOFSTEP_BAD_STEP = 4
};

typedef struct roofstep_kernels {
  int version; /* ROOFSTEP_VERSION of the roofstep that is installed */

  /* p -= learning_rate * g */
  int (*sgd_f32)(float* param, const float* grad, ptrdiff_t n, double learning_rate);
  int (*sgd_f64)(double* param, const double* grad, ptrdiff_t n, double learning_rate);
  int (*sgd_rows_f32)(float* param, const float* grad, const int64_t* rows, ptrdiff_t count,
                      ptrdiff_t height, ptrdiff_t width, double learning_rate);
  int (*sgd_rows_f64)(double* param, const double* grad, const int64_t* rows, ptrdiff_t count,
                      ptrdiff_t height, ptrdiff_t width, double learning_rate);

  /* v = momentum * v + g;  p -= learning_rate * v, or with Nesterov
     p -= learning_rate * (g + momentum * v) */
  int (*momentum_f32)(float* param, const float* grad, float* velocity, ptrdiff_t n,
                      double learning_rate, double momentum, int use_nesterov);
  int (*momentum_f64)(double* param, const double* grad, double* velocity, ptrdiff_t n,
                      double learning_rate, double momentum, int use_nesterov);
  int (*momentum_rows_f32)(float* param, const float* grad, float* velocity, const int64_t* rows,
                           ptrdiff_t count, ptrdiff_t height, ptrdiff_t width, double learning_rate,
                           double momentum, int use_nesterov);
  int (*momentum_rows_f64)(double* param, const double* grad, double* velocity, const int64_t* rows,
                           ptrdiff_t count, ptrdiff_t height, ptrdiff_t width, double learning_rate,
                           double momentum, int use_nesterov);

  /* m = beta1 * m + (1 - beta1) * g;  v = beta2 * v + (1 - beta2) * g^2;
     p -= learning_rate * (m / (1 - beta1^t)) / (sqrt(v / (1 - beta2^t)) + epsilon) */
  int (*adam_f32)(float* param, const float* grad, float* moment1, float* moment2, ptrdiff_t n,
                  double learning_rate, double beta1, double beta2, double epsilon, int64_t t);
  int (*adam_f64)(double* param, const double* grad, double* moment1, double* moment2, ptrdiff_t n,
                  double learning_rate, double beta1, double beta2, double epsilon, int64_t t);
  int (*adam_rows_f32)(float* param, const float* grad, float* moment1, float* moment2,
                       const int64_t* rows, ptrdiff_t count, ptrdiff_t height, ptrdiff_t width,
                       double learning_rate, double beta1, double beta2, double epsilon, int64_t t);
  int (*adam_rows_f64)(double* param, const double* grad, double* moment1, double* moment2,
                       const int64_t* rows, ptrdiff_t count, ptrdiff_t height, ptrdiff_t width,
                       double learning_rate, double beta1, double beta2, double epsilon, int64_t t);

  /* As Adam, and p -= learning_rate * weight_decay * p with the old p */
  int (*adamw_f32)(float* param, const float* grad, float* moment1, float* moment2, ptrdiff_t n,
                   double learning_rate, double beta1, double beta2, double epsilon,
                   double weight_decay, int64_t t);
  int (*adamw_f64)(double* param, const double* grad, double* moment1, double* moment2, ptrdiff_t n,
                   double learning_rate, double beta1, double beta2, double epsilon,
                   double weight_decay, int64_t t);
  int (*adamw_rows_f32)(float* param, const float* grad, float* moment1, float* moment2,
                        const int64_t* rows, ptrdiff_t count, ptrdiff_t height, ptrdiff_t width,
                        double learning_rate, double beta1, double beta2, double epsilon,
                        double weight_decay, int64_t t);
  int (*adamw_rows_f64)(double* param, const double* grad, double* moment1, double* moment2,
                        const int64_t* rows, ptrdiff_t count, ptrdiff_t height, ptrdiff_t width,
                        double learning_rate, double beta1, double beta2, double epsilon,
                        double weight_decay, int64_t t);

  /* s += g^2;  p -= learning_rate * g / (sqrt(s) + epsilon) */
  int (*adagrad_f32)(float* param, const float* grad, float* moment, ptrdiff_t n,
                     double learning_rate, double epsilon);
  int (*adagrad_f64)(double* param, const double* grad, double* moment, ptrdiff_t n,
                     double learning_rate, double epsilon);
  int (*adagrad_rows_f32)(float* param, const float* grad, float* moment, const int64_t* rows,
                          ptrdiff_t count, ptrdiff_t height, ptrdiff_t width, double learning_rate,
                          double epsilon);
  int (*adagrad_rows_f64)(double* param, const double* grad, double* moment, const int64_t* rows,
                          ptrdiff_t count, ptrdiff_t height, ptrdiff_t width, double learning_rate,
                          double epsilon);

  /* s = rho * s + (1 - rho) * g^2;  v = momentum * v + learning_rate * g / sqrt(s + epsilon);
     p -= v. If centered, a = rho * a + (1 - rho) * g, and s - a^2 stands in the root; else
     mean_grad is NULL. */
  int (*rmsprop_f32)(float* param, const float* grad, float* velocity, float* mean_square,
                     float* mean_grad, ptrdiff_t n, double learning_rate, double rho,
                     double epsilon, double momentum, int centered);
  int (*rmsprop_f64)(double* param, const double* grad, double* velocity, double* mean_square,
                     double* mean_grad, ptrdiff_t n, double learning_rate, double rho,
                     double epsilon, double momentum, int centered);
  int (*rmsprop_rows_f32)(float* param, const float* grad, float* velocity, float* mean_square,
                          float* mean_grad, const int64_t* rows, ptrdiff_t count, ptrdiff_t height,
                          ptrdiff_t width, double learning_rate, double rho, double epsilon,
                          double momentum, int centered);
  int (*rmsprop_rows_f64)(double* param, const double* grad, double* velocity, double* mean_square,
                          double* mean_grad, const int64_t* rows, ptrdiff_t count, ptrdiff_t height,
                          ptrdiff_t width, double learning_rate, double rho, double epsilon,
                          double momentum, int centered);

  /* d = sign(beta1 * m + (1 - beta1) * g);  m = beta2 * m + (1 - beta2) * g;
     p -= learning_rate * (d + weight_decay * p) */
  int (*lion_f32)(float* param, const float* grad, float* moment, ptrdiff_t n, double learning_rate,
                  double beta1, double beta2, double weight_decay);
  int (*lion_f64)(double* param, const double* grad, double* moment, ptrdiff_t n,
                  double learning_rate, double beta1, double beta2, double weight_decay);
  int (*lion_rows_f32)(float* param, const float* grad, float* moment, const int64_t* rows,
                       ptrdiff_t count, ptrdiff_t height, ptrdiff_t width, double learning_rate,
                       double beta1, double beta2, double weight_decay);
  int (*lion_rows_f64)(double* param, const double* grad, double* moment, const int64_t* rows,
                       ptrdiff_t count, ptrdiff_t height, ptrdiff_t width, double learning_rate,
                       double beta1, double beta2, double weight_decay);

  /* The sum of the squares of n elements, in the order of `ClipGradByGlobalNorm`: its square root
     is the norm of one tensor to the bit, if the sum is 0 or a normal number. Beyond these, which
     only float64 gradients of some 1e-154 or 1e154 come to, it is infinity, 0 or less exact. NaN if
     x is NULL and n > 0, or n is negative. */
  double (*sum_squares_f32)(const float* x, ptrdiff_t n);
  double (*sum_squares_f64)(const double* x, ptrdiff_t n);
} roofstep_kernels;

#ifdef __cplusplus
}
#endif

#endif /* ROOFSTEP_H */

#if defined(Py_PYTHON_H) && !defined(ROOFSTEP_IMPORT)
#define ROOFSTEP_IMPORT
/* The table; where Python.h was included before, here or in an earlier header. With the GIL; NULL
 * with an ImportError set where roofstep is not installed or is older than this header. It lives as
 * long as the process. */
static inline const roofstep_kernels* roofstep_import(void) {
  const roofstep_kernels* table = (const roofstep_kernels*)PyCapsule_Import(ROOFSTEP_CAPSULE, 0);
  if (table && table->version < ROOFSTEP_VERSION) {
    PyErr_Format(PyExc_ImportError,
                 "roofstep: expected version %d of its kernels or a later one, got %d; install a "
                 "newer roofstep, or compile against the one that is installed",
                 ROOFSTEP_VERSION, table->version);
    return NULL;
  }
  return table;
}
#endif
