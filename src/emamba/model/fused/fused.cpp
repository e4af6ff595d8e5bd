// SPDX-License-Identifier: Apache-2.0
// One Mamba block between in_proj and out_proj, forwards and backwards: causal convolution, then
// (after x_proj) delta, selective scan and gate. Each sequence is one thread's; the innermost loops
// run over channels. Numbers are stored as T, float or bfloat16, and computed in float.
//
// Shapes, row-major: xz (b, l, 2 d) holds x and z of in_proj; u, g (b, l, d); dbc (b, l, r + 2 n)
// holds dt, B and C; h (b, l, n, d) every state; weights conv (k, d), dt (r, d), A (n, d).
// With ROUND every number is rounded as the integer pipeline rounds it. Gradients pass rounding
// straight. Threads add their shares of a gradient in turn: the same sum every time.
#include <omp.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

namespace {

using std::size_t;

struct Sizes {
  long batch, length, d_inner, d_state, dt_rank, d_conv, threads;
};

struct Weights {
  const float *conv, *conv_bias, *dt, *dt_bias, *A, *D;
};

struct Gradients {
  float *conv, *conv_bias, *dt, *dt_bias, *A, *D;
};

struct Format {
  float lsb, per_lsb, top;
};

/// Formats by name, and both tables at every argument, from minus its top up.
struct Rounding {
  Format x, z, u, dt, B, C, delta, dt_A, h_wide, h, y, g;
  const float *exp, *silu;
};

struct bfloat16 {
  std::uint16_t bits;
};

inline float get(float value) { return value; }

inline float get(bfloat16 value) {
  const std::uint32_t bits = std::uint32_t(value.bits) << 16;
  float out;
  std::memcpy(&out, &bits, sizeof out);
  return out;
}

inline void put(float& to, float value) { to = value; }

inline void put(bfloat16& to, float value) {
  std::uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  to.bits = std::uint16_t((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

/// `value` in units of the format.
inline float units(float value, const Format& format) {
  const float rounded = std::floor(value * format.per_lsb + 0.5f);
  return rounded > format.top ? format.top : rounded < -format.top ? -format.top : rounded;
}

template <bool ROUND>
inline float q(float value, const Format& format) {
  return ROUND ? units(value, format) * format.lsb : value;
}

template <bool ROUND>
inline float decay(float delta_A, const Rounding& r) {
  if (!ROUND) return std::exp(delta_A);
  return r.exp[int(units(delta_A, r.dt_A) + r.dt_A.top)];
}

inline float sigmoid(float z) { return 1.0f / (1.0f + std::exp(-z)); }

template <bool ROUND>
inline float silu(float z, const Rounding& r) {
  if (!ROUND) return z * sigmoid(z);
  return r.silu[int(units(z, r.z) + r.z.top)];
}

template <class T, bool ROUND>
void convolve(const Sizes& s, const Weights& w, const Rounding& r, const T* xz, T* u) {
  const long d = s.d_inner;
#pragma omp parallel num_threads(s.threads)
  {
    std::vector<float> sums(d);
    float* sum = sums.data();
#pragma omp for
    for (long b = 0; b < s.batch; ++b) {
      for (long t = 0; t < s.length; ++t) {
        for (long c = 0; c < d; ++c) sum[c] = w.conv_bias[c];
        for (long tap = 0; tap < s.d_conv; ++tap) {
          const long from = t - (s.d_conv - 1) + tap;
          if (from < 0) continue;
          const T* x = xz + (b * s.length + from) * 2 * d;
          const float* weight = w.conv + tap * d;
#pragma omp simd
          for (long c = 0; c < d; ++c) sum[c] += weight[c] * q<ROUND>(get(x[c]), r.x);
        }
        T* out = u + (b * s.length + t) * d;
#pragma omp simd
        for (long c = 0; c < d; ++c) put(out[c], q<ROUND>(sum[c], r.u));
      }
    }
  }
}

template <class T, bool ROUND>
void convolve_back(const Sizes& s, const Weights& w, const Rounding& r, const T* xz, const T* gu,
                   T* gxz, const Gradients& grad) {
  const long d = s.d_inner, taps = s.d_conv;
#pragma omp parallel num_threads(s.threads)
  {
    std::vector<float> sums(d), own(taps * d), own_bias(d);
    float *sum = sums.data(), *gb = own_bias.data();
#pragma omp for
    for (long b = 0; b < s.batch; ++b) {
      for (long t = 0; t < s.length; ++t) {
        const size_t token = b * s.length + t;
        const T* x = xz + token * 2 * d;
        for (long c = 0; c < d; ++c) sum[c] = 0;
        for (long tap = 0; tap < taps; ++tap) {
          const long to = t + (taps - 1) - tap;
          if (to >= s.length) continue;
          const T* g = gu + (b * s.length + to) * d;
          const float* weight = w.conv + tap * d;
          float* gw = own.data() + tap * d;
#pragma omp simd
          for (long c = 0; c < d; ++c) {
            sum[c] += weight[c] * get(g[c]);
            gw[c] += get(g[c]) * q<ROUND>(get(x[c]), r.x);
          }
        }
        T* out = gxz + token * 2 * d;
        const T* g = gu + token * d;
#pragma omp simd
        for (long c = 0; c < d; ++c) {
          put(out[c], sum[c]);
          gb[c] += get(g[c]);
        }
      }
    }
#pragma omp for ordered schedule(static, 1)
    for (int thread = 0; thread < omp_get_num_threads(); ++thread)
#pragma omp ordered
    {
      for (long i = 0; i < taps * d; ++i) grad.conv[i] += own[i];
      for (long c = 0; c < d; ++c) grad.conv_bias[c] += own_bias[c];
    }
  }
}

/// One token's channels.
struct Token {
  std::vector<float> u, delta, y;

  explicit Token(long d) : u(d), delta(d), y(d) {}

  /// u, `delta = relu(dt_proj(dt))` and, to start with, `y = D u`.
  template <class T, bool ROUND>
  void read(const Sizes& s, const Weights& w, const Rounding& r, const T* from, const T* dbc) {
    const long d = s.d_inner;
    float *uc = u.data(), *dc = delta.data(), *yc = y.data();
    for (long c = 0; c < d; ++c) dc[c] = w.dt_bias[c];
    for (long rank = 0; rank < s.dt_rank; ++rank) {
      const float dt = q<ROUND>(get(dbc[rank]), r.dt);
      const float* weight = w.dt + rank * d;
#pragma omp simd
      for (long c = 0; c < d; ++c) dc[c] += dt * weight[c];
    }
#pragma omp simd
    for (long c = 0; c < d; ++c) {
      dc[c] = q<ROUND>(dc[c] > 0 ? dc[c] : 0, r.delta);
      uc[c] = get(from[c]);
      yc[c] = w.D[c] * uc[c];
    }
  }
};

template <class T, bool ROUND>
void scan(const Sizes& s, const Weights& w, const Rounding& r, const T* xz, const T* us,
          const T* dbcs, float* hs, T* gs) {
  const long d = s.d_inner, n = s.d_state, row = s.dt_rank + 2 * n;
#pragma omp parallel num_threads(s.threads)
  {
    Token token(d);
    std::vector<float> stored(n * d);
#pragma omp for
    for (long b = 0; b < s.batch; ++b) {
      for (float& h : stored) h = 0;
      for (long t = 0; t < s.length; ++t) {
        const size_t at = b * s.length + t;
        const T* dbc = dbcs + at * row;
        token.read<T, ROUND>(s, w, r, us + at * d, dbc);
        const float *u = token.u.data(), *delta = token.delta.data();
        float* y = token.y.data();
        for (long k = 0; k < n; ++k) {
          const float B = q<ROUND>(get(dbc[s.dt_rank + k]), r.B);
          const float C = q<ROUND>(get(dbc[s.dt_rank + n + k]), r.C);
          const float* A = w.A + k * d;
          float *h = stored.data() + k * d, *wide = hs + (at * n + k) * d;
#pragma omp simd
          for (long c = 0; c < d; ++c) {
            const float dBu = q<ROUND>(delta[c] * u[c] * B, r.h_wide);
            wide[c] = q<ROUND>(decay<ROUND>(delta[c] * A[c], r) * h[c] + dBu, r.h_wide);
            y[c] += C * wide[c];
            h[c] = q<ROUND>(wide[c], r.h);
          }
        }
        const T* z = xz + at * 2 * d + d;
        T* g = gs + at * d;
#pragma omp simd
        for (long c = 0; c < d; ++c) {
          put(g[c], q<ROUND>(q<ROUND>(y[c], r.y) * silu<ROUND>(get(z[c]), r), r.g));
        }
      }
    }
  }
}

template <class T, bool ROUND>
void scan_back(const Sizes& s, const Weights& w, const Rounding& r, const T* xz, const T* us,
               const T* dbcs, const float* hs, const T* ggs, T* gxz, T* gus, T* gdbcs,
               const Gradients& grad) {
  const long d = s.d_inner, n = s.d_state, rank = s.dt_rank, row = rank + 2 * n;
#pragma omp parallel num_threads(s.threads)
  {
    Token token(d);
    std::vector<float> ghs(n * d), gys(d), gdeltas(d), gdus(d);
    std::vector<float> own_A(n * d), own_D(d), own_dt(rank * d), own_bias(d);
    const std::vector<float> nothing(n * d);
    float *gy = gys.data(), *gdelta = gdeltas.data(), *gdu = gdus.data();
    float *gD = own_D.data(), *gbias = own_bias.data();
#pragma omp for
    for (long b = 0; b < s.batch; ++b) {
      for (float& gh : ghs) gh = 0;
      for (long t = s.length - 1; t >= 0; --t) {
        const size_t at = b * s.length + t;
        const T* dbc = dbcs + at * row;
        T* gdbc = gdbcs + at * row;
        token.read<T, ROUND>(s, w, r, us + at * d, dbc);
        const float *u = token.u.data(), *delta = token.delta.data();
        float* y = token.y.data();
        const float* wide = hs + at * n * d;
        const float* before = t > 0 ? wide - n * d : nothing.data();
        for (long k = 0; k < n; ++k) {
          const float C = q<ROUND>(get(dbc[rank + n + k]), r.C);
#pragma omp simd
          for (long c = 0; c < d; ++c) y[c] += C * wide[k * d + c];
        }
        const T *z = xz + at * 2 * d + d, *gg = ggs + at * d;
        T* gz = gxz + at * 2 * d + d;
#pragma omp simd
        for (long c = 0; c < d; ++c) {
          const float zc = q<ROUND>(get(z[c]), r.z), sig = sigmoid(zc), g = get(gg[c]);
          put(gz[c], g * y[c] * sig * (1 + zc * (1 - sig)));
          gy[c] = g * silu<ROUND>(zc, r);
          gdelta[c] = gdu[c] = 0;
        }
        for (long k = 0; k < n; ++k) {
          const float B = q<ROUND>(get(dbc[rank + k]), r.B);
          const float C = q<ROUND>(get(dbc[rank + n + k]), r.C);
          const float *A = w.A + k * d, *now = wide + k * d, *past = before + k * d;
          float *gh = ghs.data() + k * d, *gA = own_A.data() + k * d;
          float gB = 0, gC = 0;
#pragma omp simd reduction(+ : gB, gC)
          for (long c = 0; c < d; ++c) {
            const float into = gh[c] + gy[c] * C;
            gC += gy[c] * now[c];
            gB += into * delta[c] * u[c];
            gdu[c] += into * B;
            const float dA = decay<ROUND>(delta[c] * A[c], r);
            const float gdelta_A = into * q<ROUND>(past[c], r.h) * dA;
            gdelta[c] += gdelta_A * A[c];
            gA[c] += gdelta_A * delta[c];
            gh[c] = into * dA;
          }
          put(gdbc[rank + k], gB);
          put(gdbc[rank + n + k], gC);
        }
        T* gu = gus + at * d;
#pragma omp simd
        for (long c = 0; c < d; ++c) {
          const float before_relu = delta[c] > 0 ? gdelta[c] + gdu[c] * u[c] : 0;
          gdelta[c] = before_relu;
          gbias[c] += before_relu;
          gD[c] += gy[c] * u[c];
          put(gu[c], gdu[c] * delta[c] + gy[c] * w.D[c]);
        }
        for (long k = 0; k < rank; ++k) {
          const float dt = q<ROUND>(get(dbc[k]), r.dt);
          const float* weight = w.dt + k * d;
          float* gdt = own_dt.data() + k * d;
          float sum = 0;
#pragma omp simd reduction(+ : sum)
          for (long c = 0; c < d; ++c) {
            sum += gdelta[c] * weight[c];
            gdt[c] += gdelta[c] * dt;
          }
          put(gdbc[k], sum);
        }
      }
    }
#pragma omp for ordered schedule(static, 1)
    for (int thread = 0; thread < omp_get_num_threads(); ++thread)
#pragma omp ordered
    {
      for (long i = 0; i < n * d; ++i) grad.A[i] += own_A[i];
      for (long i = 0; i < rank * d; ++i) grad.dt[i] += own_dt[i];
      for (long c = 0; c < d; ++c) {
        grad.D[c] += own_D[c];
        grad.dt_bias[c] += own_bias[c];
      }
    }
  }
}

constexpr Rounding NO_ROUNDING{};

/// Calls `call(T{}, std::bool_constant)` with what the flags say.
template <class Call>
void choose(bool half, const Rounding* rounding, const Call& call) {
  const Rounding& r = rounding ? *rounding : NO_ROUNDING;
  if (half && rounding) return call(bfloat16{}, std::true_type{}, r);
  if (half) return call(bfloat16{}, std::false_type{}, r);
  if (rounding) return call(float{}, std::true_type{}, r);
  return call(float{}, std::false_type{}, r);
}

}  // namespace

extern "C" {

#define EMAMBA_EXPORT __attribute__((visibility("default")))

EMAMBA_EXPORT void emamba_convolve(const Sizes* s, const Weights* w, const Rounding* rounding,
                                   bool half, const void* xz, void* u) {
  choose(half, rounding, [&](auto like, auto round, const Rounding& r) {
    using T = decltype(like);
    convolve<T, round.value>(*s, *w, r, static_cast<const T*>(xz), static_cast<T*>(u));
  });
}

EMAMBA_EXPORT void emamba_convolve_back(const Sizes* s, const Weights* w, const Rounding* rounding,
                                        bool half, const void* xz, const void* gu, void* gxz,
                                        const Gradients* grad) {
  choose(half, rounding, [&](auto like, auto round, const Rounding& r) {
    using T = decltype(like);
    convolve_back<T, round.value>(*s, *w, r, static_cast<const T*>(xz), static_cast<const T*>(gu),
                                  static_cast<T*>(gxz), *grad);
  });
}

EMAMBA_EXPORT void emamba_scan(const Sizes* s, const Weights* w, const Rounding* rounding,
                               bool half, const void* xz, const void* u, const void* dbc, float* h,
                               void* g) {
  choose(half, rounding, [&](auto like, auto round, const Rounding& r) {
    using T = decltype(like);
    scan<T, round.value>(*s, *w, r, static_cast<const T*>(xz), static_cast<const T*>(u),
                         static_cast<const T*>(dbc), h, static_cast<T*>(g));
  });
}

EMAMBA_EXPORT void emamba_scan_back(const Sizes* s, const Weights* w, const Rounding* rounding,
                                    bool half, const void* xz, const void* u, const void* dbc,
                                    const float* h, const void* gg, void* gxz, void* gu, void* gdbc,
                                    const Gradients* grad) {
  choose(half, rounding, [&](auto like, auto round, const Rounding& r) {
    using T = decltype(like);
    scan_back<T, round.value>(*s, *w, r, static_cast<const T*>(xz), static_cast<const T*>(u),
                              static_cast<const T*>(dbc), h, static_cast<const T*>(gg),
                              static_cast<T*>(gxz), static_cast<T*>(gu), static_cast<T*>(gdbc),
                              *grad);
  });
}

}  // extern "C"
