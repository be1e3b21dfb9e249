// The roof that an update is measured against: its traffic and hardly any arithmetic. Included
// inside each ISA's namespace.

// The arrays are a pack of named pointers, as in the loop of the rules: over an array of pointers
// that it only reads, gcc leaves the loop scalar.
template <class... From>
[[gnu::always_inline]] inline float sum_of(std::size_t n, const From* __restrict... from) {
  float sum = 0;
#pragma omp simd reduction(+ : sum)
  for (std::size_t i = 0; i < n; ++i) sum += (0.0f + ... + from[i]);
  return sum;
}

template <std::size_t... U, class... From>
[[gnu::always_inline]] inline void rewrite(float* const* updated, std::index_sequence<U...>,
                                           std::size_t n, const From* __restrict... from) {
  const auto halve = [=](auto* __restrict... to) {
#pragma omp simd
    for (std::size_t i = 0; i < n; ++i) {
      const float x = (0.0f + ... + from[i]);
      ((to[i] = to[i] * 0.5f + x), ...);
    }
  };
  halve(updated[U]...);
}

template <std::size_t U, std::size_t... R>
[[gnu::always_inline]] inline float stream(float* const* updated, float* const* read, std::size_t n,
                                           std::index_sequence<R...>) {
  if constexpr (U == 0) {
    return sum_of(n, read[R]...);
  } else {
    rewrite(updated, std::make_index_sequence<U>{}, n, read[R]...);
    return 0;
  }
}

template <std::size_t U, std::size_t R>
float stream_of(float* const* updated, float* const* read, std::size_t n) {
  return stream<U>(updated, read, n, std::make_index_sequence<R>{});
}
