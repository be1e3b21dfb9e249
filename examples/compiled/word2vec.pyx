# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Skip-gram word2vec with negative sampling (Mikolov et al., 2013), by Adagrad, without the GIL.

Row w of `inner` is the vector of word w, row w of `outer` what it is to its neighbours. A pair of
neighbours (c, o), and k words n drawn from `noise`, have the loss
-log sigmoid(inner[c] @ outer[o]) - sum over n of log sigmoid(-inner[c] @ outer[n]).
"""

import numpy as np

from cython.parallel cimport prange
from libc.math cimport exp, log1p
from libc.stdint cimport int32_t, int64_t, uint64_t

from roofstep.kernels cimport ROOFSTEP_OK, adagrad_f32, adagrad_rows_f32

cdef enum:
    WIDEST = 512  # a vector, on the stack
    MOST_THREADS = 64

cdef double EPSILON = 1e-6

cdef struct Text:
    const int32_t *words
    Py_ssize_t count
    const int32_t *noise
    Py_ssize_t noises
    int window
    int negative
    uint64_t state  # of the random numbers


cdef inline Py_ssize_t drawn(Text *text, Py_ssize_t below) noexcept nogil:
    """The upper bits of a linear congruential generator."""
    text.state = text.state * 6364136223846793005u + 1442695040888963407u
    return (text.state >> 33) % <uint64_t>below


cdef inline double gradients(const float *inner, const float *outer, Py_ssize_t width,
        bint neighbours, float *to_inner, float *to_outer) noexcept nogil:
    """The loss of two words; adds its gradient in `inner` to one, writes that in `outer`."""
    cdef float score = 0, slope
    cdef Py_ssize_t i
    for i in range(width):
        score += inner[i] * outer[i]
    slope = 1 / (1 + exp(-score)) - neighbours
    for i in range(width):
        to_inner[i] += slope * outer[i]
        to_outer[i] = slope * inner[i]
    return log1p(exp(-score if neighbours else score))


# Pair by pair, as word2vec has it: what a pair says is learnt at once, by one call for each row.
# Threads write to one matrix and take no locks ("hogwild"): a common word loses an update at times.


cdef double learn_span(float *inner, float *outer, float *inner_moment, float *outer_moment,
        Py_ssize_t width, Text text, Py_ssize_t begin, Py_ssize_t end, double rate,
        int64_t *pairs, int *refused) noexcept nogil:
    """Learns the words from `begin` to `end`; the sum of the losses."""
    cdef float to_inner[WIDEST]
    cdef float to_outer[WIDEST]
    cdef Py_ssize_t at, other, reach, i, c, o
    cdef double loss = 0
    for at in range(begin, end):
        c = text.words[at] * width
        reach = 1 + drawn(&text, text.window)
        for other in range(max(at - reach, 0), min(at + reach + 1, text.count)):
            if other == at:
                continue
            for i in range(width):
                to_inner[i] = 0
            for i in range(1 + text.negative):
                o = (text.noise[drawn(&text, text.noises)] if i else text.words[other]) * width
                loss += gradients(inner + c, outer + o, width, i == 0, to_inner, to_outer)
                refused[0] |= adagrad_f32(outer + o, to_outer, outer_moment + o, width, rate,
                    EPSILON)
            refused[0] |= adagrad_f32(inner + c, to_inner, inner_moment + c, width, rate, EPSILON)
            pairs[0] += 1
    return loss


def learn(float[:, ::1] inner, float[:, ::1] outer, float[:, ::1] inner_moment,
        float[:, ::1] outer_moment, const int32_t[::1] words, const int32_t[::1] noise,
        int window=5, int negative=5, double rate=0.1, uint64_t seed=1, int threads=1):
    """Goes through the text once, a span for each thread; returns the mean loss of a pair."""
    check([inner, outer, inner_moment, outer_moment], words, noise, window, negative, threads)
    cdef Text text = Text(&words[0], words.shape[0], &noise[0], noise.shape[0], window, negative, 0)
    cdef Text[MOST_THREADS] texts
    cdef int64_t[MOST_THREADS] pairs
    cdef int[MOST_THREADS] refused
    cdef double loss = 0
    cdef int thread
    for thread in range(threads):
        texts[thread] = text
        texts[thread].state = seed * 1000003 + thread
        pairs[thread] = 0
        refused[thread] = ROOFSTEP_OK
    for thread in prange(threads, nogil=True, num_threads=threads, schedule="static", chunksize=1):
        loss += learn_span(&inner[0, 0], &outer[0, 0], &inner_moment[0, 0], &outer_moment[0, 0],
            inner.shape[1], texts[thread], text.count * thread // threads,
            text.count * (thread + 1) // threads, rate, &pairs[thread], &refused[thread])
    if any([refused[thread] for thread in range(threads)]):
        raise RuntimeError("a kernel has refused its arguments")
    return loss / sum([pairs[thread] for thread in range(threads)])


# Batch by batch: the gradients of many pairs are written down in the order of the rows that they
# are for, and a matrix is updated by one call, in which those of equal rows are added up. Each
# thread has rows of its own: the vectors are the same, to the bit, for any number of threads.


cdef void sort_rows(const int64_t *rows, Py_ssize_t count, int64_t *in_order, Py_ssize_t *places,
        Py_ssize_t[::1] begins) noexcept nogil:
    """By counting: rows[i] comes to in_order[places[i]], equal ones in the order they had."""
    cdef Py_ssize_t i
    begins[:] = 0
    for i in range(count):
        begins[rows[i] + 1] += 1
    for i in range(1, begins.shape[0]):
        begins[i] += begins[i - 1]
    for i in range(count):
        places[i] = begins[rows[i]]
        begins[rows[i]] += 1
        in_order[places[i]] = rows[i]


cdef Py_ssize_t share(const int64_t *rows, Py_ssize_t count, int thread,
        int threads) noexcept nogil:
    """Where the rows of a thread begin: equal ones are for one thread."""
    cdef Py_ssize_t i = count * thread // threads
    while 0 < i < count and rows[i] == rows[i - 1]:
        i += 1
    return i


cdef int update(float[:, ::1] matrix, const float[:, ::1] gradient, float[:, ::1] moment,
        const int64_t[::1] rows, Py_ssize_t count, double rate, int thread,
        int threads) noexcept nogil:
    cdef Py_ssize_t begin = share(&rows[0], count, thread, threads)
    cdef Py_ssize_t end = share(&rows[0], count, thread + 1, threads)
    return adagrad_rows_f32(&matrix[0, 0], &gradient[0, 0] + begin * matrix.shape[1],
        &moment[0, 0], &rows[0] + begin, end - begin, matrix.shape[0], matrix.shape[1], rate,
        EPSILON)


def learn_in_batches(float[:, ::1] inner, float[:, ::1] outer, float[:, ::1] inner_moment,
        float[:, ::1] outer_moment, const int32_t[::1] words, const int32_t[::1] noise,
        int window=5, int negative=5, double rate=0.2, uint64_t seed=1, int threads=1,
        Py_ssize_t batch=512):
    """Goes through the text once, `batch` pairs at a time; returns the mean loss of a pair."""
    check([inner, outer, inner_moment, outer_moment], words, noise, window, negative, threads)
    if batch < 1:
        raise ValueError("expected a pair or more in a batch")
    cdef Text text = Text(&words[0], words.shape[0], &noise[0], noise.shape[0], window, negative,
        seed)
    cdef Py_ssize_t width = inner.shape[1], each = 1 + negative, most = batch + 2 * window
    cdef Py_ssize_t at = 0, count, other, reach, i, j, pairs = 0
    cdef int64_t[::1] centers = np.empty(most, np.int64), others = np.empty(most * each, np.int64)
    cdef int64_t[::1] inner_rows = np.empty_like(centers), outer_rows = np.empty_like(others)
    cdef Py_ssize_t[::1] inner_places = np.empty(most, np.intp)
    cdef Py_ssize_t[::1] outer_places = np.empty(most * each, np.intp)
    cdef Py_ssize_t[::1] begins = np.empty(inner.shape[0] + 1, np.intp)
    cdef float[:, ::1] to_inner = np.empty((most, width), np.float32)
    cdef float[:, ::1] to_outer = np.empty((most * each, width), np.float32)
    cdef double loss = 0
    cdef int thread, refused = 0
    while at < text.count:
        with nogil:
            count = 0
            while at < text.count and count < batch:
                reach = 1 + drawn(&text, window)
                for other in range(max(at - reach, 0), min(at + reach + 1, text.count)):
                    if other == at:
                        continue
                    centers[count] = text.words[at]
                    others[count * each] = text.words[other]
                    for j in range(1, each):
                        others[count * each + j] = noise[drawn(&text, text.noises)]
                    count += 1
                at += 1
            sort_rows(&centers[0], count, &inner_rows[0], &inner_places[0], begins)
            sort_rows(&others[0], count * each, &outer_rows[0], &outer_places[0], begins)
            for i in prange(count, num_threads=threads, schedule="static"):
                to_inner[inner_places[i]] = 0
                for j in range(each):
                    loss += gradients(&inner[centers[i], 0], &outer[others[i * each + j], 0],
                        width, j == 0, &to_inner[inner_places[i], 0],
                        &to_outer[outer_places[i * each + j], 0])
            for thread in prange(threads, num_threads=threads, schedule="static", chunksize=1):
                refused |= update(inner, to_inner, inner_moment, inner_rows, count, rate, thread,
                    threads)
                refused |= update(outer, to_outer, outer_moment, outer_rows, count * each, rate,
                    thread, threads)
            pairs += count
        if refused != ROOFSTEP_OK:
            raise RuntimeError("a kernel has refused its arguments")
    return loss / pairs


cdef check(matrices, const int32_t[::1] words, const int32_t[::1] noise, int window, int negative,
        int threads):
    height, width = matrices[0].shape
    if any(matrix.shape != (height, width) for matrix in matrices) or width > WIDEST:
        raise ValueError(f"expected four matrices of one shape, with at most {WIDEST} columns")
    if len(words) < 2 or len(noise) < 1:
        raise ValueError("expected two words or more, and noise")
    if min(np.min(words), np.min(noise)) < 0 or max(np.max(words), np.max(noise)) >= height:
        raise ValueError(f"expected words to be numbers of rows, from 0 to {height - 1}")
    if window < 1 or negative < 0 or not 1 <= threads <= MOST_THREADS:
        raise ValueError(f"expected a window, and 1 to {MOST_THREADS} threads")
