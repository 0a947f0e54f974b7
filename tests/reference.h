/* Every operator once more, forward and backward, in double precision and as plainly as it can be written:
   nested loops over index formulas. It shares nothing with cnn.h, is checked on its own by finite differences
   (test_reference.c), and is what the library is then compared to. Conventions are the library's: results and
   dx are overwritten, dw and db are accumulated into, dx, dw and db may be NULL. Options hold actual values,
   never a zero that stands for a default. */
#ifndef REFERENCE_H
#define REFERENCE_H

#include <math.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>

/* Sanitized, the references would take most of the tests' time. */
#ifdef __GNUC__
#define REF static inline __attribute__((no_sanitize("address", "undefined")))
#else
#define REF static inline
#endif

typedef struct ref_tensor {
    int n, c, h, w;
    double *data;
} ref_tensor;

REF size_t ref_count(const ref_tensor *t) {
    return (size_t)t->n * (size_t)t->c * (size_t)t->h * (size_t)t->w;
}

REF size_t ref_index(const ref_tensor *t, int n, int c, int y, int x) {
    return (((size_t)n * (size_t)t->c + (size_t)c) * (size_t)t->h + (size_t)y) * (size_t)t->w + (size_t)x;
}

REF double *ref_at(const ref_tensor *t, int n, int c, int y, int x) {
    return &t->data[ref_index(t, n, c, y, x)];
}

REF void *ref_memory(size_t count, size_t size) { /* zeros */
    void *memory = calloc(count ? count : 1, size);
    if (!memory) {
        puts("out of memory");
        exit(1);
    }
    return memory;
}

REF ref_tensor ref_alloc(int n, int c, int h, int w) { /* zeros */
    ref_tensor t = {n, c, h, w, NULL};
    t.data = (double *)ref_memory(ref_count(&t), sizeof *t.data);
    return t;
}

REF void ref_free(ref_tensor *t) {
    free(t->data);
    t->data = NULL;
}

REF void ref_fill(ref_tensor *t, double value) {
    for (size_t i = 0; i < ref_count(t); i++)
        t->data[i] = value;
}

/* ---- convolution --------------------------------------------------------------------------------- */

typedef enum ref_padding { REF_ZEROS, REF_REFLECT, REF_REPLICATE, REF_CIRCULAR } ref_padding;

typedef struct ref_conv {
    int stride_h, stride_w, top, bottom, left, right, dilation_h, dilation_w, groups;
    ref_padding mode;
} ref_conv;

/* The number of outputs along one axis; below 1: the kernel does not fit. */
REF int ref_conv_size(int size, int before, int after, int kernel, int stride, int dilation) {
    const int span = size + before + after - dilation * (kernel - 1) - 1;
    return span < 0 ? 0 : span / stride + 1;
}

/* The coordinate within the image that stands at i, which may lie in the padding; -1: a zero stands there. */
REF int ref_source(int i, int size, ref_padding mode) {
    if (i >= 0 && i < size)
        return i;
    switch (mode) {
    case REF_REFLECT:
        return i < 0 ? -i : 2 * (size - 1) - i;
    case REF_REPLICATE:
        return i < 0 ? 0 : size - 1;
    case REF_CIRCULAR:
        return i < 0 ? i + size : i - size;
    default:
        return -1;
    }
}

/* The index of the element of x that weight (o, c, a, b) meets at output (n, o, i, j); -1: a zero. */
REF ptrdiff_t ref_conv2d_input(const ref_tensor *x, const ref_tensor *weight, const ref_conv *opt, int n,
                               int o, int i, int j, int c, int a, int b) {
    const int group = o / (weight->n / opt->groups);
    const int row = ref_source(i * opt->stride_h + a * opt->dilation_h - opt->top, x->h, opt->mode);
    const int column = ref_source(j * opt->stride_w + b * opt->dilation_w - opt->left, x->w, opt->mode);
    if (row < 0 || column < 0)
        return -1;
    return (ptrdiff_t)ref_index(x, n, group * weight->c + c, row, column);
}

REF double ref_conv2d_output(const ref_tensor *x, const ref_tensor *weight, const ref_conv *opt, int n, int o,
                             int i, int j) {
    double sum = 0;
    for (int c = 0; c < weight->c; c++)
        for (int a = 0; a < weight->h; a++)
            for (int b = 0; b < weight->w; b++) {
                const ptrdiff_t k = ref_conv2d_input(x, weight, opt, n, o, i, j, c, a, b);
                if (k >= 0)
                    sum += *ref_at(weight, o, c, a, b) * x->data[k];
            }
    return sum;
}

REF void ref_conv2d_forward(const ref_tensor *x, const ref_tensor *weight, const ref_tensor *bias,
                            const ref_conv *opt, ref_tensor *y) {
    for (int n = 0; n < y->n; n++)
        for (int o = 0; o < y->c; o++)
            for (int i = 0; i < y->h; i++)
                for (int j = 0; j < y->w; j++)
                    *ref_at(y, n, o, i, j) =
                        ref_conv2d_output(x, weight, opt, n, o, i, j) + (bias ? bias->data[o] : 0);
}

/* What dy = g at one output adds to the gradients. */
REF void ref_conv2d_spread(const ref_tensor *x, const ref_tensor *weight, const ref_conv *opt, int n, int o,
                           int i, int j, double g, ref_tensor *dx, ref_tensor *dw) {
    for (int c = 0; c < weight->c; c++)
        for (int a = 0; a < weight->h; a++)
            for (int b = 0; b < weight->w; b++) {
                const ptrdiff_t k = ref_conv2d_input(x, weight, opt, n, o, i, j, c, a, b);
                if (k >= 0 && dx)
                    dx->data[k] += *ref_at(weight, o, c, a, b) * g;
                if (k >= 0 && dw)
                    *ref_at(dw, o, c, a, b) += x->data[k] * g;
            }
}

REF void ref_conv2d_backward(const ref_tensor *x, const ref_tensor *weight, const ref_tensor *dy,
                             const ref_conv *opt, ref_tensor *dx, ref_tensor *dw, ref_tensor *db) {
    if (dx)
        ref_fill(dx, 0);
    for (int n = 0; n < dy->n; n++)
        for (int o = 0; o < dy->c; o++)
            for (int i = 0; i < dy->h; i++)
                for (int j = 0; j < dy->w; j++) {
                    const double g = *ref_at(dy, n, o, i, j);
                    ref_conv2d_spread(x, weight, opt, n, o, i, j, g, dx, dw);
                    if (db)
                        db->data[o] += g;
                }
}

/* Cross-correlation of planes; flip: with the kernel flipped in both axes, which is the true convolution. */
REF void ref_corr2d_forward(const ref_tensor *x, const ref_tensor *kernel, int flip, ref_tensor *y) {
    for (int i = 0; i < y->h; i++)
        for (int j = 0; j < y->w; j++) {
            double sum = 0;
            for (int a = 0; a < kernel->h; a++)
                for (int b = 0; b < kernel->w; b++)
                    sum += *ref_at(x, 0, 0, i + a, j + b) *
                           *ref_at(kernel, 0, 0, flip ? kernel->h - 1 - a : a, flip ? kernel->w - 1 - b : b);
            *ref_at(y, 0, 0, i, j) = sum;
        }
}

REF void ref_corr2d_backward(const ref_tensor *x, const ref_tensor *kernel, const ref_tensor *dy, int flip,
                             ref_tensor *dx, ref_tensor *dkernel) {
    if (dx)
        ref_fill(dx, 0);
    for (int i = 0; i < dy->h; i++)
        for (int j = 0; j < dy->w; j++)
            for (int a = 0; a < kernel->h; a++)
                for (int b = 0; b < kernel->w; b++) {
                    const int row = flip ? kernel->h - 1 - a : a;
                    const int column = flip ? kernel->w - 1 - b : b;
                    const double g = *ref_at(dy, 0, 0, i, j);
                    if (dx)
                        *ref_at(dx, 0, 0, i + a, j + b) += g * *ref_at(kernel, 0, 0, row, column);
                    if (dkernel)
                        *ref_at(dkernel, 0, 0, row, column) += g * *ref_at(x, 0, 0, i + a, j + b);
                }
}

/* ---- pooling ------------------------------------------------------------------------------------- */

typedef struct ref_pool {
    int kernel_h, kernel_w, stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w, ceil_mode,
        exclude_padding;
} ref_pool;

/* PyTorch's pooling_output_shape: rounded up in ceil mode, but the last window must start before the padding
   on the far side. Below 1: the window does not fit. */
REF int ref_pool_size(int size, int pad, int kernel, int stride, int dilation, int ceil_mode) {
    const int span = size + 2 * pad - dilation * (kernel - 1) - 1 + (ceil_mode ? stride - 1 : 0);
    int count = span < 0 ? 0 : span / stride + 1;
    if (ceil_mode && count > 0 && (count - 1) * stride >= size + pad)
        count--;
    return count;
}

/* The position of the greatest element of window (i, j): the first of equals, but, as in PyTorch, the last
   NaN where there is one; -1: the window has no element of the image. */
REF int ref_maxpool2d_index(const ref_tensor *x, const ref_pool *opt, int n, int c, int i, int j) {
    int best = -1;
    for (int a = 0; a < opt->kernel_h; a++)
        for (int b = 0; b < opt->kernel_w; b++) {
            const int row = i * opt->stride_h - opt->pad_h + a * opt->dilation_h;
            const int column = j * opt->stride_w - opt->pad_w + b * opt->dilation_w;
            if (row < 0 || row >= x->h || column < 0 || column >= x->w)
                continue;
            const double value = *ref_at(x, n, c, row, column);
            const double greatest = best < 0 ? 0 : *ref_at(x, n, c, best / x->w, best % x->w);
            if (best < 0 || value > greatest || isnan(value))
                best = row * x->w + column;
        }
    return best;
}

REF void ref_maxpool2d_forward(const ref_tensor *x, const ref_pool *opt, ref_tensor *y, int *indices) {
    for (int n = 0; n < y->n; n++)
        for (int c = 0; c < y->c; c++)
            for (int i = 0; i < y->h; i++)
                for (int j = 0; j < y->w; j++) {
                    const int k = ref_maxpool2d_index(x, opt, n, c, i, j);
                    indices[ref_index(y, n, c, i, j)] = k;
                    *ref_at(y, n, c, i, j) = k < 0 ? -(double)INFINITY : *ref_at(x, n, c, k / x->w, k % x->w);
                }
}

REF void ref_maxpool2d_backward(const ref_tensor *dy, const int *indices, ref_tensor *dx) {
    ref_fill(dx, 0);
    for (int n = 0; n < dy->n; n++)
        for (int c = 0; c < dy->c; c++)
            for (int i = 0; i < dy->h; i++)
                for (int j = 0; j < dy->w; j++) {
                    const int k = indices[ref_index(dy, n, c, i, j)];
                    if (k >= 0)
                        *ref_at(dx, n, c, k / dx->w, k % dx->w) += *ref_at(dy, n, c, i, j);
                }
}

/* How many positions of a window that starts at start lie in low..high-1. */
REF int ref_inside(int start, int kernel, int low, int high) {
    int count = 0;
    for (int i = start; i < start + kernel; i++)
        count += i >= low && i < high;
    return count;
}

/* PyTorch's divisor: positions of the window on the image, or, with the padding counted, on the image and its
   padding; what ceil mode lets hang over beyond the padding is never counted. */
REF double ref_avgpool2d_divisor(const ref_pool *opt, int h, int w, int i, int j) {
    const int pad_h = opt->exclude_padding ? 0 : opt->pad_h;
    const int pad_w = opt->exclude_padding ? 0 : opt->pad_w;
    return (double)ref_inside(i * opt->stride_h - opt->pad_h, opt->kernel_h, -pad_h, h + pad_h) *
           (double)ref_inside(j * opt->stride_w - opt->pad_w, opt->kernel_w, -pad_w, w + pad_w);
}

REF double ref_avgpool2d_output(const ref_tensor *x, const ref_pool *opt, int n, int c, int i, int j) {
    double sum = 0;
    for (int a = 0; a < opt->kernel_h; a++)
        for (int b = 0; b < opt->kernel_w; b++) {
            const int row = i * opt->stride_h - opt->pad_h + a;
            const int column = j * opt->stride_w - opt->pad_w + b;
            if (row >= 0 && row < x->h && column >= 0 && column < x->w)
                sum += *ref_at(x, n, c, row, column);
        }
    return sum / ref_avgpool2d_divisor(opt, x->h, x->w, i, j);
}

REF void ref_avgpool2d_forward(const ref_tensor *x, const ref_pool *opt, ref_tensor *y) {
    for (int n = 0; n < y->n; n++)
        for (int c = 0; c < y->c; c++)
            for (int i = 0; i < y->h; i++)
                for (int j = 0; j < y->w; j++)
                    *ref_at(y, n, c, i, j) = ref_avgpool2d_output(x, opt, n, c, i, j);
}

REF void ref_avgpool2d_spread(const ref_pool *opt, int n, int c, int i, int j, double g, ref_tensor *dx) {
    const double share = g / ref_avgpool2d_divisor(opt, dx->h, dx->w, i, j);
    for (int a = 0; a < opt->kernel_h; a++)
        for (int b = 0; b < opt->kernel_w; b++) {
            const int row = i * opt->stride_h - opt->pad_h + a;
            const int column = j * opt->stride_w - opt->pad_w + b;
            if (row >= 0 && row < dx->h && column >= 0 && column < dx->w)
                *ref_at(dx, n, c, row, column) += share;
        }
}

REF void ref_avgpool2d_backward(const ref_tensor *dy, const ref_pool *opt, ref_tensor *dx) {
    ref_fill(dx, 0);
    for (int n = 0; n < dy->n; n++)
        for (int c = 0; c < dy->c; c++)
            for (int i = 0; i < dy->h; i++)
                for (int j = 0; j < dy->w; j++)
                    ref_avgpool2d_spread(opt, n, c, i, j, *ref_at(dy, n, c, i, j), dx);
}

REF void ref_globalavgpool2d_forward(const ref_tensor *x, ref_tensor *y) {
    ref_fill(y, 0);
    for (int n = 0; n < x->n; n++)
        for (int c = 0; c < x->c; c++)
            for (int i = 0; i < x->h; i++)
                for (int j = 0; j < x->w; j++)
                    *ref_at(y, n, c, 0, 0) += *ref_at(x, n, c, i, j) / (x->h * x->w);
}

REF void ref_globalavgpool2d_backward(const ref_tensor *dy, ref_tensor *dx) {
    for (int n = 0; n < dx->n; n++)
        for (int c = 0; c < dx->c; c++)
            for (int i = 0; i < dx->h; i++)
                for (int j = 0; j < dx->w; j++)
                    *ref_at(dx, n, c, i, j) = *ref_at(dy, n, c, 0, 0) / (dx->h * dx->w);
}

/* ---- linear -------------------------------------------------------------------------------------- */

REF void ref_linear_forward(const ref_tensor *x, const ref_tensor *weight, const ref_tensor *bias,
                            ref_tensor *y) {
    for (int n = 0; n < y->n; n++)
        for (int o = 0; o < weight->n; o++) {
            double sum = bias ? bias->data[o] : 0;
            for (int i = 0; i < weight->c; i++)
                sum += x->data[n * weight->c + i] * *ref_at(weight, o, i, 0, 0);
            *ref_at(y, n, o, 0, 0) = sum;
        }
}

REF void ref_linear_backward(const ref_tensor *x, const ref_tensor *weight, const ref_tensor *dy,
                             ref_tensor *dx, ref_tensor *dw, ref_tensor *db) {
    if (dx)
        ref_fill(dx, 0);
    for (int n = 0; n < dy->n; n++)
        for (int o = 0; o < weight->n; o++) {
            const double g = *ref_at(dy, n, o, 0, 0);
            if (db)
                db->data[o] += g;
            for (int i = 0; i < weight->c; i++) {
                if (dx)
                    dx->data[n * weight->c + i] += g * *ref_at(weight, o, i, 0, 0);
                if (dw)
                    *ref_at(dw, o, i, 0, 0) += g * x->data[n * weight->c + i];
            }
        }
}

/* ---- activations: the backward passes take the result y ------------------------------------------ */

REF void ref_sigmoid_forward(const ref_tensor *x, ref_tensor *y) {
    for (size_t i = 0; i < ref_count(x); i++)
        y->data[i] = 1 / (1 + exp(-x->data[i]));
}

REF void ref_sigmoid_backward(const ref_tensor *y, const ref_tensor *dy, ref_tensor *dx) {
    for (size_t i = 0; i < ref_count(y); i++)
        dx->data[i] = dy->data[i] * y->data[i] * (1 - y->data[i]);
}

REF void ref_tanh_forward(const ref_tensor *x, ref_tensor *y) {
    for (size_t i = 0; i < ref_count(x); i++)
        y->data[i] = tanh(x->data[i]);
}

REF void ref_tanh_backward(const ref_tensor *y, const ref_tensor *dy, ref_tensor *dx) {
    for (size_t i = 0; i < ref_count(y); i++)
        dx->data[i] = dy->data[i] * (1 - y->data[i] * y->data[i]);
}

REF void ref_relu_forward(const ref_tensor *x, ref_tensor *y) { /* of NaN: NaN */
    for (size_t i = 0; i < ref_count(x); i++)
        y->data[i] = x->data[i] <= 0 ? 0 : x->data[i];
}

REF void ref_relu_backward(const ref_tensor *y, const ref_tensor *dy, ref_tensor *dx) {
    for (size_t i = 0; i < ref_count(y); i++)
        dx->data[i] = y->data[i] <= 0 ? 0 : dy->data[i];
}

/* The greatest of the channels at one position, and the sum of exp(x - greatest), which cannot overflow. */
REF double ref_exp_sum(const ref_tensor *x, int n, int i, int j, double *greatest) {
    double sum = 0;
    *greatest = -(double)INFINITY;
    for (int c = 0; c < x->c; c++)
        *greatest = fmax(*greatest, *ref_at(x, n, c, i, j));
    for (int c = 0; c < x->c; c++)
        sum += exp(*ref_at(x, n, c, i, j) - *greatest);
    return sum;
}

REF void ref_softmax_forward(const ref_tensor *x, ref_tensor *y) {
    for (int n = 0; n < x->n; n++)
        for (int i = 0; i < x->h; i++)
            for (int j = 0; j < x->w; j++) {
                double greatest;
                const double sum = ref_exp_sum(x, n, i, j, &greatest);
                for (int c = 0; c < x->c; c++)
                    *ref_at(y, n, c, i, j) = exp(*ref_at(x, n, c, i, j) - greatest) / sum;
            }
}

/* dy_c/dx_k = y_c (delta_ck - y_k), so dx_k = y_k (dy_k - sum over c of dy_c y_c). */
REF void ref_softmax_backward(const ref_tensor *y, const ref_tensor *dy, ref_tensor *dx) {
    for (int n = 0; n < y->n; n++)
        for (int i = 0; i < y->h; i++)
            for (int j = 0; j < y->w; j++) {
                double mean = 0;
                for (int c = 0; c < y->c; c++)
                    mean += *ref_at(dy, n, c, i, j) * *ref_at(y, n, c, i, j);
                for (int c = 0; c < y->c; c++)
                    *ref_at(dx, n, c, i, j) = *ref_at(y, n, c, i, j) * (*ref_at(dy, n, c, i, j) - mean);
            }
}

/* Forward and, with dy and dx for x and y, backward: mask[i] is 1 where element i is kept. */
REF void ref_dropout(const ref_tensor *x, const int *mask, double p, ref_tensor *y) {
    for (size_t i = 0; i < ref_count(x); i++)
        y->data[i] = mask[i] ? x->data[i] / (1 - p) : 0;
}

/* ---- losses -------------------------------------------------------------------------------------- */

REF double ref_cross_entropy_forward(const ref_tensor *logits, const int *labels) {
    double loss = 0;
    for (int n = 0; n < logits->n; n++) {
        double greatest;
        const double sum = ref_exp_sum(logits, n, 0, 0, &greatest);
        loss += (greatest - *ref_at(logits, n, labels[n], 0, 0) + log(sum)) / logits->n;
    }
    return loss;
}

REF void ref_cross_entropy_backward(const ref_tensor *logits, const int *labels, ref_tensor *dlogits) {
    ref_softmax_forward(logits, dlogits);
    for (int n = 0; n < logits->n; n++)
        *ref_at(dlogits, n, labels[n], 0, 0) -= 1;
    for (size_t i = 0; i < ref_count(logits); i++)
        dlogits->data[i] /= logits->n;
}

REF double ref_squared_error_forward(const ref_tensor *y, const ref_tensor *target, int mean) {
    double sum = 0;
    for (size_t i = 0; i < ref_count(y); i++)
        sum += (y->data[i] - target->data[i]) * (y->data[i] - target->data[i]);
    return mean ? sum / (double)ref_count(y) : sum;
}

REF void ref_squared_error_backward(const ref_tensor *y, const ref_tensor *target, int mean, ref_tensor *dy) {
    for (size_t i = 0; i < ref_count(y); i++)
        dy->data[i] = 2 * (y->data[i] - target->data[i]) / (mean ? (double)ref_count(y) : 1.0);
}

#endif
