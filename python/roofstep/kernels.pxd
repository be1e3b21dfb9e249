# The kernels for Cython: `from roofstep.kernels cimport adam_f32`.
#
# What they do and what they return is said in roofstep/include/roofstep/roofstep.h. The compiled
# module of the caller is bound to these signatures: append, never change.
from libc.stdint cimport int64_t

cdef enum:
    ROOFSTEP_OK = 0
    ROOFSTEP_BAD_POINTER = 1
    ROOFSTEP_BAD_SIZE = 2
    ROOFSTEP_BAD_ROWS = 3
    ROOFSTEP_BAD_STEP = 4

cdef int sgd_f32(float *param, const float *grad, Py_ssize_t n, double learning_rate) noexcept nogil
cdef int sgd_f64(double *param, const double *grad, Py_ssize_t n,
    double learning_rate) noexcept nogil
cdef int sgd_rows_f32(float *param, const float *grad, const int64_t *rows, Py_ssize_t count,
    Py_ssize_t height, Py_ssize_t width, double learning_rate) noexcept nogil
cdef int sgd_rows_f64(double *param, const double *grad, const int64_t *rows, Py_ssize_t count,
    Py_ssize_t height, Py_ssize_t width, double learning_rate) noexcept nogil

cdef int momentum_f32(float *param, const float *grad, float *velocity, Py_ssize_t n,
    double learning_rate, double momentum, int use_nesterov) noexcept nogil
cdef int momentum_f64(double *param, const double *grad, double *velocity, Py_ssize_t n,
    double learning_rate, double momentum, int use_nesterov) noexcept nogil
cdef int momentum_rows_f32(float *param, const float *grad, float *velocity, const int64_t *rows,
    Py_ssize_t count, Py_ssize_t height, Py_ssize_t width, double learning_rate, double momentum,
    int use_nesterov) noexcept nogil
cdef int momentum_rows_f64(double *param, const double *grad, double *velocity, const int64_t *rows,
    Py_ssize_t count, Py_ssize_t height, Py_ssize_t width, double learning_rate, double momentum,
    int use_nesterov) noexcept nogil

cdef int adam_f32(float *param, const float *grad, float *moment1, float *moment2, Py_ssize_t n,
    double learning_rate, double beta1, double beta2, double epsilon, int64_t t) noexcept nogil
cdef int adam_f64(double *param, const double *grad, double *moment1, double *moment2, Py_ssize_t n,
    double learning_rate, double beta1, double beta2, double epsilon, int64_t t) noexcept nogil
cdef int adam_rows_f32(float *param, const float *grad, float *moment1, float *moment2,
    const int64_t *rows, Py_ssize_t count, Py_ssize_t height, Py_ssize_t width,
    double learning_rate, double beta1, double beta2, double epsilon, int64_t t) noexcept nogil
cdef int adam_rows_f64(double *param, const double *grad, double *moment1, double *moment2,
    const int64_t *rows, Py_ssize_t count, Py_ssize_t height, Py_ssize_t width,
    double learning_rate, double beta1, double beta2, double epsilon, int64_t t) noexcept nogil

cdef int adamw_f32(float *param, const float *grad, float *moment1, float *moment2, Py_ssize_t n,
    double learning_rate, double beta1, double beta2, double epsilon, double weight_decay,
    int64_t t) noexcept nogil
cdef int adamw_f64(double *param, const double *grad, double *moment1, double *moment2,
    Py_ssize_t n, double learning_rate, double beta1, double beta2, double epsilon,
    double weight_decay, int64_t t) noexcept nogil
cdef int adamw_rows_f32(float *param, const float *grad, float *moment1, float *moment2,
    const int64_t *rows, Py_ssize_t count, Py_ssize_t height, Py_ssize_t width,
    double learning_rate, double beta1, double beta2, double epsilon, double weight_decay,
    int64_t t) noexcept nogil
cdef int adamw_rows_f64(double *param, const double *grad, double *moment1, double *moment2,
    const int64_t *rows, Py_ssize_t count, Py_ssize_t height, Py_ssize_t width,
    double learning_rate, double beta1, double beta2, double epsilon, double weight_decay,
    int64_t t) noexcept nogil

cdef int adagrad_f32(float *param, const float *grad, float *moment, Py_ssize_t n,
    double learning_rate, double epsilon) noexcept nogil
cdef int adagrad_f64(double *param, const double *grad, double *moment, Py_ssize_t n,
    double learning_rate, double epsilon) noexcept nogil
cdef int adagrad_rows_f32(float *param, const float *grad, float *moment, const int64_t *rows,
    Py_ssize_t count, Py_ssize_t height, Py_ssize_t width, double learning_rate,
    double epsilon) noexcept nogil
cdef int adagrad_rows_f64(double *param, const double *grad, double *moment, const int64_t *rows,
    Py_ssize_t count, Py_ssize_t height, Py_ssize_t width, double learning_rate,
    double epsilon) noexcept nogil

cdef int rmsprop_f32(float *param, const float *grad, float *velocity, float *mean_square,
    float *mean_grad, Py_ssize_t n, double learning_rate, double rho, double epsilon,
    double momentum, int centered) noexcept nogil
cdef int rmsprop_f64(double *param, const double *grad, double *velocity, double *mean_square,
    double *mean_grad, Py_ssize_t n, double learning_rate, double rho, double epsilon,
    double momentum, int centered) noexcept nogil
cdef int rmsprop_rows_f32(float *param, const float *grad, float *velocity, float *mean_square,
    float *mean_grad, const int64_t *rows, Py_ssize_t count, Py_ssize_t height, Py_ssize_t width,
    double learning_rate, double rho, double epsilon, double momentum, int centered) noexcept nogil
cdef int rmsprop_rows_f64(double *param, const double *grad, double *velocity, double *mean_square,
    double *mean_grad, const int64_t *rows, Py_ssize_t count, Py_ssize_t height, Py_ssize_t width,
    double learning_rate, double rho, double epsilon, double momentum, int centered) noexcept nogil

cdef int lion_f32(float *param, const float *grad, float *moment, Py_ssize_t n,
    double learning_rate, double beta1, double beta2, double weight_decay) noexcept nogil
cdef int lion_f64(double *param, const double *grad, double *moment, Py_ssize_t n,
    double learning_rate, double beta1, double beta2, double weight_decay) noexcept nogil
cdef int lion_rows_f32(float *param, const float *grad, float *moment, const int64_t *rows,
    Py_ssize_t count, Py_ssize_t height, Py_ssize_t width, double learning_rate, double beta1,
    double beta2, double weight_decay) noexcept nogil
cdef int lion_rows_f64(double *param, const double *grad, double *moment, const int64_t *rows,
    Py_ssize_t count, Py_ssize_t height, Py_ssize_t width, double learning_rate, double beta1,
    double beta2, double weight_decay) noexcept nogil

cdef double sum_squares_f32(const float *x, Py_ssize_t n) noexcept nogil
cdef double sum_squares_f64(const double *x, Py_ssize_t n) noexcept nogil
