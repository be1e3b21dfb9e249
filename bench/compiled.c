/* Calls of roofstep's kernels over and over, and of the loops that a user would write instead.
 *
 * bench/compiled.py compiles this and gives each function a Case. */
#include <math.h>
#include <roofstep/roofstep.h>

typedef struct {
  const roofstep_kernels* kernels;
  float* param;
  const float* grad;
  float *state1, *state2;
  const int64_t* rows; /* of a matrix of `height` rows, `count` of them */
  ptrdiff_t count, height, width;
  ptrdiff_t times;
} Case;

static const double rate = 1e-9, beta1 = 0.9, beta2 = 0.999, epsilon = 1e-8;

/* Not inlined: of a loop that is, the compiler would do a part once for all calls. */
__attribute__((noinline)) static void sgd(float* param, const float* grad, ptrdiff_t n,
                                          double learning_rate) {
  const float r = (float)learning_rate;
  for (ptrdiff_t i = 0; i < n; ++i) param[i] -= r * grad[i];
}

__attribute__((noinline)) static void adagrad(float* restrict param, const float* restrict grad,
                                              float* restrict moment, ptrdiff_t n,
                                              double learning_rate) {
  const float r = (float)learning_rate, e = (float)epsilon;
  for (ptrdiff_t i = 0; i < n; ++i) {
    moment[i] += grad[i] * grad[i];
    param[i] -= r * grad[i] / (sqrtf(moment[i]) + e);
  }
}

__attribute__((noinline)) static void adam(float* restrict param, const float* restrict grad,
                                           float* restrict moment1, float* restrict moment2,
                                           ptrdiff_t n, double learning_rate, ptrdiff_t t) {
  const double root = sqrt(1 - pow(beta2, (double)t));
  const float b1 = (float)beta1, a1 = (float)(1 - beta1), b2 = (float)beta2;
  const float a2 = (float)(1 - beta2), e = (float)(epsilon * root);
  const float r = (float)(learning_rate * root / (1 - pow(beta1, (double)t)));
  for (ptrdiff_t i = 0; i < n; ++i) {
    moment1[i] = b1 * moment1[i] + a1 * grad[i];
    moment2[i] = b2 * moment2[i] + a2 * grad[i] * grad[i];
    param[i] -= r * moment1[i] / (sqrtf(moment2[i]) + e);
  }
}

void sgd_by_roofstep(const Case* c) {
  for (ptrdiff_t k = 0; k < c->times; ++k) c->kernels->sgd_f32(c->param, c->grad, c->width, rate);
}
void sgd_by_loop(const Case* c) {
  for (ptrdiff_t k = 0; k < c->times; ++k) sgd(c->param, c->grad, c->width, rate);
}

void adagrad_by_roofstep(const Case* c) {
  for (ptrdiff_t k = 0; k < c->times; ++k) {
    c->kernels->adagrad_f32(c->param, c->grad, c->state1, c->width, rate, epsilon);
  }
}
void adagrad_by_loop(const Case* c) {
  for (ptrdiff_t k = 0; k < c->times; ++k) adagrad(c->param, c->grad, c->state1, c->width, rate);
}

void adam_by_roofstep(const Case* c) {
  for (ptrdiff_t k = 0; k < c->times; ++k) {
    c->kernels->adam_f32(c->param, c->grad, c->state1, c->state2, c->width, rate, beta1, beta2,
                         epsilon, 1000 + k);
  }
}
void adam_by_loop(const Case* c) {
  for (ptrdiff_t k = 0; k < c->times; ++k) {
    adam(c->param, c->grad, c->state1, c->state2, c->width, rate, 1000 + k);
  }
}

void sgd_rows_by_roofstep(const Case* c) {
  for (ptrdiff_t k = 0; k < c->times; ++k) {
    c->kernels->sgd_rows_f32(c->param, c->grad, c->rows, c->count, c->height, c->width, rate);
  }
}
void sgd_rows_by_loop(const Case* c) {
  for (ptrdiff_t k = 0; k < c->times; ++k) {
    for (ptrdiff_t i = 0; i < c->count; ++i) {
      sgd(c->param + c->rows[i] * c->width, c->grad + i * c->width, c->width, rate);
    }
  }
}

void adagrad_rows_by_roofstep(const Case* c) {
  for (ptrdiff_t k = 0; k < c->times; ++k) {
    c->kernels->adagrad_rows_f32(c->param, c->grad, c->state1, c->rows, c->count, c->height,
                                 c->width, rate, epsilon);
  }
}
void adagrad_rows_by_loop(const Case* c) {
  for (ptrdiff_t k = 0; k < c->times; ++k) {
    for (ptrdiff_t i = 0; i < c->count; ++i) {
      const ptrdiff_t begin = c->rows[i] * c->width;
      adagrad(c->param + begin, c->grad + i * c->width, c->state1 + begin, c->width, rate);
    }
  }
}
