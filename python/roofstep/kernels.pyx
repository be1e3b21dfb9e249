# cython: language_level=3, freethreading_compatible=True
"""The compiled door: kernels on raw pointers, for Cython by `cimport`, for numba, ctypes and cffi.

What there is stands in kernels.pxd, what it does in include/roofstep/roofstep.h.
"""

# That the arguments are those of the table is checked by the C compiler.
cdef extern from "roofstep/roofstep.h":
    ctypedef struct roofstep_kernels:
        int version
        int (*sgd_f32)(...) noexcept nogil
        int (*sgd_f64)(...) noexcept nogil
        int (*sgd_rows_f32)(...) noexcept nogil
        int (*sgd_rows_f64)(...) noexcept nogil
        int (*momentum_f32)(...) noexcept nogil
        int (*momentum_f64)(...) noexcept nogil
        int (*momentum_rows_f32)(...) noexcept nogil
        int (*momentum_rows_f64)(...) noexcept nogil
        int (*adam_f32)(...) noexcept nogil
        int (*adam_f64)(...) noexcept nogil
        int (*adam_rows_f32)(...) noexcept nogil
        int (*adam_rows_f64)(...) noexcept nogil
        int (*adamw_f32)(...) noexcept nogil
        int (*adamw_f64)(...) noexcept nogil
        int (*adamw_rows_f32)(...) noexcept nogil
        int (*adamw_rows_f64)(...) noexcept nogil
        int (*adagrad_f32)(...) noexcept nogil
        int (*adagrad_f64)(...) noexcept nogil
        int (*adagrad_rows_f32)(...) noexcept nogil
        int (*adagrad_rows_f64)(...) noexcept nogil
        int (*rmsprop_f32)(...) noexcept nogil
        int (*rmsprop_f64)(...) noexcept nogil
        int (*rmsprop_rows_f32)(...) noexcept nogil
        int (*rmsprop_rows_f64)(...) noexcept nogil
        int (*lion_f32)(...) noexcept nogil
        int (*lion_f64)(...) noexcept nogil
        int (*lion_rows_f32)(...) noexcept nogil
        int (*lion_rows_f64)(...) noexcept nogil
        double (*sum_squares_f32)(...) noexcept nogil
        double (*sum_squares_f64)(...) noexcept nogil

    const roofstep_kernels *roofstep_import() except NULL


cdef const roofstep_kernels *table = roofstep_import()

version = table.version


def address():
    """The address of the table of roofstep.h, for callers that can follow a pointer."""
    return <size_t>table


cdef int sgd_f32(float *param, const float *grad, Py_ssize_t n,
        double learning_rate) noexcept nogil:
    return table.sgd_f32(param, grad, n, learning_rate)


cdef int sgd_f64(double *param, const double *grad, Py_ssize_t n,
        double learning_rate) noexcept nogil:
    return table.sgd_f64(param, grad, n, learning_rate)


cdef int sgd_rows_f32(float *param, const float *grad, const int64_t *rows, Py_ssize_t count,
        Py_ssize_t height, Py_ssize_t width, double learning_rate) noexcept nogil:
    return table.sgd_rows_f32(param, grad, rows, count, height, width, learning_rate)


cdef int sgd_rows_f64(double *param, const double *grad, const int64_t *rows, Py_ssize_t count,
        Py_ssize_t height, Py_ssize_t width, double learning_rate) noexcept nogil:
    return table.sgd_rows_f64(param, grad, rows, count, height, width, learning_rate)


cdef int momentum_f32(float *param, const float *grad, float *velocity, Py_ssize_t n,
        double learning_rate, double momentum, int use_nesterov) noexcept nogil:
    return table.momentum_f32(param, grad, velocity, n, learning_rate, momentum, use_nesterov)


cdef int momentum_f64(double *param, const double *grad, double *velocity, Py_ssize_t n,
        double learning_rate, double momentum, int use_nesterov) noexcept nogil:
    return table.momentum_f64(param, grad, velocity, n, learning_rate, momentum, use_nesterov)


cdef int momentum_rows_f32(float *param, const float *grad, float *velocity, const int64_t *rows,
        Py_ssize_t count, Py_ssize_t height, Py_ssize_t width, double learning_rate,
        double momentum, int use_nesterov) noexcept nogil:
    return table.momentum_rows_f32(param, grad, velocity, rows, count, height, width, learning_rate,
        momentum, use_nesterov)


cdef int momentum_rows_f64(double *param, const double *grad, double *velocity, const int64_t *rows,
        Py_ssize_t count, Py_ssize_t height, Py_ssize_t width, double learning_rate,
        double momentum, int use_nesterov) noexcept nogil:
    return table.momentum_rows_f64(param, grad, velocity, rows, count, height, width, learning_rate,
        momentum, use_nesterov)


cdef int adam_f32(float *param, const float *grad, float *moment1, float *moment2, Py_ssize_t n,
        double learning_rate, double beta1, double beta2, double epsilon, int64_t t) noexcept nogil:
    return table.adam_f32(param, grad, moment1, moment2, n, learning_rate, beta1, beta2, epsilon, t)


cdef int adam_f64(double *param, const double *grad, double *moment1, double *moment2, Py_ssize_t n,
        double learning_rate, double beta1, double beta2, double epsilon, int64_t t) noexcept nogil:
    return table.adam_f64(param, grad, moment1, moment2, n, learning_rate, beta1, beta2, epsilon, t)


cdef int adam_rows_f32(float *param, const float *grad, float *moment1, float *moment2,
        const int64_t *rows, Py_ssize_t count, Py_ssize_t height, Py_ssize_t width,
        double learning_rate, double beta1, double beta2, double epsilon, int64_t t) noexcept nogil:
    return table.adam_rows_f32(param, grad, moment1, moment2, rows, count, height, width,
        learning_rate, beta1, beta2, epsilon, t)


cdef int adam_rows_f64(double *param, const double *grad, double *moment1, double *moment2,
        const int64_t *rows, Py_ssize_t count, Py_ssize_t height, Py_ssize_t width,
        double learning_rate, double beta1, double beta2, double epsilon, int64_t t) noexcept nogil:
    return table.adam_rows_f64(param, grad, moment1, moment2, rows, count, height, width,
        learning_rate, beta1, beta2, epsilon, t)


cdef int adamw_f32(float *param, const float *grad, float *moment1, float *moment2, Py_ssize_t n,
        double learning_rate, double beta1, double beta2, double epsilon, double weight_decay,
        int64_t t) noexcept nogil:
    return table.adamw_f32(param, grad, moment1, moment2, n, learning_rate, beta1, beta2, epsilon,
        weight_decay, t)


cdef int adamw_f64(double *param, const double *grad, double *moment1, double *moment2,
        Py_ssize_t n, double learning_rate, double beta1, double beta2, double epsilon,
        double weight_decay, int64_t t) noexcept nogil:
    return table.adamw_f64(param, grad, moment1, moment2, n, learning_rate, beta1, beta2, epsilon,
        weight_decay, t)


cdef int adamw_rows_f32(float *param, const float *grad, float *moment1, float *moment2,
        const int64_t *rows, Py_ssize_t count, Py_ssize_t height, Py_ssize_t width,
        double learning_rate, double beta1, double beta2, double epsilon, double weight_decay,
        int64_t t) noexcept nogil:
    return table.adamw_rows_f32(param, grad, moment1, moment2, rows, count, height, width,
        learning_rate, beta1, beta2, epsilon, weight_decay, t)


cdef int adamw_rows_f64(double *param, const double *grad, double *moment1, double *moment2,
        const int64_t *rows, Py_ssize_t count, Py_ssize_t height, Py_ssize_t width,
        double learning_rate, double beta1, double beta2, double epsilon, double weight_decay,
        int64_t t) noexcept nogil:
    return table.adamw_rows_f64(param, grad, moment1, moment2, rows, count, height, width,
        learning_rate, beta1, beta2, epsilon, weight_decay, t)


cdef int adagrad_f32(float *param, const float *grad, float *moment, Py_ssize_t n,
        double learning_rate, double epsilon) noexcept nogil:
    return table.adagrad_f32(param, grad, moment, n, learning_rate, epsilon)


cdef int adagrad_f64(double *param, const double *grad, double *moment, Py_ssize_t n,
        double learning_rate, double epsilon) noexcept nogil:
    return table.adagrad_f64(param, grad, moment, n, learning_rate, epsilon)


cdef int adagrad_rows_f32(float *param, const float *grad, float *moment, const int64_t *rows,
        Py_ssize_t count, Py_ssize_t height, Py_ssize_t width, double learning_rate,
        double epsilon) noexcept nogil:
    return table.adagrad_rows_f32(param, grad, moment, rows, count, height, width, learning_rate,
        epsilon)


cdef int adagrad_rows_f64(double *param, const double *grad, double *moment, const int64_t *rows,
        Py_ssize_t count, Py_ssize_t height, Py_ssize_t width, double learning_rate,
        double epsilon) noexcept nogil:
    return table.adagrad_rows_f64(param, grad, moment, rows, count, height, width, learning_rate,
        epsilon)


cdef int rmsprop_f32(float *param, const float *grad, float *velocity, float *mean_square,
        float *mean_grad, Py_ssize_t n, double learning_rate, double rho, double epsilon,
        double momentum, int centered) noexcept nogil:
    return table.rmsprop_f32(param, grad, velocity, mean_square, mean_grad, n, learning_rate, rho,
        epsilon, momentum, centered)


cdef int rmsprop_f64(double *param, const double *grad, double *velocity, double *mean_square,
        double *mean_grad, Py_ssize_t n, double learning_rate, double rho, double epsilon,
        double momentum, int centered) noexcept nogil:
    return table.rmsprop_f64(param, grad, velocity, mean_square, mean_grad, n, learning_rate, rho,
        epsilon, momentum, centered)


cdef int rmsprop_rows_f32(float *param, const float *grad, float *velocity, float *mean_square,
        float *mean_grad, const int64_t *rows, Py_ssize_t count, Py_ssize_t height,
        Py_ssize_t width, double learning_rate, double rho, double epsilon, double momentum,
        int centered) noexcept nogil:
    return table.rmsprop_rows_f32(param, grad, velocity, mean_square, mean_grad, rows, count,
        height, width, learning_rate, rho, epsilon, momentum, centered)


cdef int rmsprop_rows_f64(double *param, const double *grad, double *velocity, double *mean_square,
        double *mean_grad, const int64_t *rows, Py_ssize_t count, Py_ssize_t height,
        Py_ssize_t width, double learning_rate, double rho, double epsilon, double momentum,
        int centered) noexcept nogil:
    return table.rmsprop_rows_f64(param, grad, velocity, mean_square, mean_grad, rows, count,
        height, width, learning_rate, rho, epsilon, momentum, centered)


cdef int lion_f32(float *param, const float *grad, float *moment, Py_ssize_t n,
        double learning_rate, double beta1, double beta2, double weight_decay) noexcept nogil:
    return table.lion_f32(param, grad, moment, n, learning_rate, beta1, beta2, weight_decay)


cdef int lion_f64(double *param, const double *grad, double *moment, Py_ssize_t n,
        double learning_rate, double beta1, double beta2, double weight_decay) noexcept nogil:
    return table.lion_f64(param, grad, moment, n, learning_rate, beta1, beta2, weight_decay)


cdef int lion_rows_f32(float *param, const float *grad, float *moment, const int64_t *rows,
        Py_ssize_t count, Py_ssize_t height, Py_ssize_t width, double learning_rate, double beta1,
        double beta2, double weight_decay) noexcept nogil:
    return table.lion_rows_f32(param, grad, moment, rows, count, height, width, learning_rate,
        beta1, beta2, weight_decay)


cdef int lion_rows_f64(double *param, const double *grad, double *moment, const int64_t *rows,
        Py_ssize_t count, Py_ssize_t height, Py_ssize_t width, double learning_rate, double beta1,
        double beta2, double weight_decay) noexcept nogil:
    return table.lion_rows_f64(param, grad, moment, rows, count, height, width, learning_rate,
        beta1, beta2, weight_decay)


cdef double sum_squares_f32(const float *x, Py_ssize_t n) noexcept nogil:
    return table.sum_squares_f32(x, n)


cdef double sum_squares_f64(const double *x, Py_ssize_t n) noexcept nogil:
    return table.sum_squares_f64(x, n)
