/* cnn.h - convolutional neural networks in one C header                                   version 0.1.0

   Tensors, convolution, pooling, activations, linear layers and losses, each with a hand-written backward
   pass; networks as tables of layers; an SGD trainer. float32, NCHW, PyTorch's semantics wherever PyTorch
   has the operator. Needs libc and libm; uses OpenMP where the compiler has it on. C99 or C++11 and later.

   In ONE source file                        everywhere else
       #define CNN_IMPLEMENTATION                #include "cnn.h"
       #include "cnn.h"

   A network and its training:

       static const cnn_layer layers[] = {
           {.kind = CNN_CONV2D, .out = 6, .kernel = 5, .padding = 2}, {.kind = CNN_SIGMOID},
           {.kind = CNN_AVGPOOL2D, .kernel = 2}, {.kind = CNN_FLATTEN}, {.kind = CNN_LINEAR, .out = 10}};
       cnn_net *net;
       cnn_fit_options how = {.epochs = 10, .batch = 256, .sgd = {.lr = 0.9f}};
       if (cnn_net_create(&net, layers, 5, 1, 28, 28) || cnn_net_init(net, CNN_XAVIER_UNIFORM, seed) ||
           cnn_fit(net, &train, &test, &how, NULL))
           puts(cnn_last_error());

   CONTENTS (search for the tag)
     public          >>status >>device-api >>tensor-api >>operator-api >>network-api >>training-api >>data-api
     implementation  >>config >>platform >>error >>memory >>random >>kernels >>dispatch >>tensor >>geometry
                     >>conv >>pool >>activation >>linear >>loss >>layers >>workspace >>network >>train >>data
                     >>cuda >>device
     end of file     licence (MIT)

   OPTIONS, defined before the include that has CNN_IMPLEMENTATION (CNN_STATIC: before every include)
     CNN_STATIC              every function is static: a private copy in one source file
     CNN_MALLOC(bytes),      the allocator, both or neither; default malloc and free. The library aligns by
     CNN_FREE(pointer)       itself and never calls CNN_FREE(NULL)
     CNN_NO_STDIO            no stdio.h: no function that takes a file name
     CNN_NO_SIMD             no intrinsics and no vector types: plain C loops
     CNN_NO_OPENMP           one thread, even where the compiler has OpenMP on
     CNN_CUDA                the CUDA back end too. nvcc compiles the one file with CNN_IMPLEMENTATION, as in
                             nvcc -x cu -DCNN_CUDA -c FILE.c,  and the C compiler the rest of the program;
                             cnn_device_use chooses the device when the program runs

   PROMISES
     errors        Everything that can fail returns a cnn_status. On an error outputs are untouched and
                   cnn_last_error() is a sentence with the place, the value and the shape. Nothing is ever
                   printed; nothing exits or aborts.
     memory        A network's and a workspace's memory is planned and taken when they are created, or is
                   handed in by the caller; nothing allocates within a step. Operators called on their own
                   take scratch memory for the call and give it back. On a GPU the device's share of a
                   workspace is always the library's own; the caller's memory holds the rest.
     threads       No state is shared but the choice of the device: calls on different objects may run at the
                   same time, and one const cnn_net serves any number of threads, each with a workspace of its
                   own.
     determinism   The same seed gives the same bits on every run and for every number of threads (of one
                   build on one instruction set). So too on a GPU, whatever its number of processors; CPU and
                   GPU agree to rounding.
     arithmetic    float32 throughout, sums of losses in double. Subnormals are flushed to zero inside the
                   library; the caller's floating-point mode is restored.

   CHANGES
     0.1.0  first version
*/
#ifndef CNN_H
#define CNN_H

#include <stddef.h>
#include <stdint.h>

#define CNN_VERSION_MAJOR 0
#define CNN_VERSION_MINOR 1
#define CNN_VERSION_PATCH 0
#define CNN_VERSION       "0.1.0"

#ifdef CNN_STATIC
#if defined(__GNUC__)
#define CNN_API static __attribute__((unused))
#else
#define CNN_API static
#endif
#else
#define CNN_API extern
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* ---- >>status -------------------------------------------------------------------------------------- */

typedef enum cnn_status {
    CNN_OK = 0,
    CNN_ERR_ARGUMENT, /* a value out of range, a NULL where data is needed, buffers that overlap */
    CNN_ERR_SHAPE,    /* shapes that do not fit one another, or whose size overflows */
    CNN_ERR_NOMEM,    /* the allocator returned NULL, or the memory handed in is too small */
    CNN_ERR_IO,       /* a file that cannot be opened or read */
    CNN_ERR_FORMAT,   /* a file whose content is not what it should be; a label outside the classes */
    CNN_ERR_DIVERGED, /* a loss that is infinite or not a number */
    CNN_ERR_DEVICE    /* no usable GPU, or an error that its driver reports */
} cnn_status;

/* The sentence of the last error on the calling thread; "" before the first. Valid until the next error. */
CNN_API const char *cnn_last_error(void);

/* "ok", "argument", "shape", "out of memory", "input/output", "format", "diverged", "device"; "unknown" for
   others. */
CNN_API const char *cnn_status_name(cnn_status status);

/* CNN_VERSION of the implementation, to compare with the header's. */
CNN_API const char *cnn_version(void);

/* The instruction set in use: "avx512", "avx2", "sse2", "neon", "vector" or "scalar". */
CNN_API const char *cnn_instruction_set(void);

/* Threads that a call or a workspace uses unless told otherwise: OpenMP's maximum, but no more than there are
   processors for this process, on which further ones would only wait for each other; 1 without OpenMP. */
CNN_API int cnn_max_threads(void);

/* ---- >>device-api ---------------------------------------------------------------------------------- */

typedef enum cnn_device {
    CNN_DEVICE_AUTO = 0, /* the GPU if there is a usable one, else the CPU */
    CNN_DEVICE_CPU,
    CNN_DEVICE_CUDA
} cnn_device;

/* Chooses where tensors, networks and workspaces are made and operators run from now on, for the whole
   process; the CPU until then. Objects keep the device they were made under, and may be freed under any.
   CNN_ERR_DEVICE, with the driver's reason: CNN_DEVICE_CUDA without a usable GPU, or in a build without
   CNN_CUDA; the choice then stays as it was.
     On the GPU the memory of tensors, of parameters and of gradients is managed memory: a program reads and
   writes it as ever, between calls. A tensor around memory of the caller's own is copied there and back by
   every call that takes it, and so are parameters and gradients in memory that was handed in: that holds what
   the program sees, the rest is the library's own. Calls return when their work is done. Operators hand on
   their scratch memory there, up to about 300 MB for large convolutions, until the program ends. */
CNN_API cnn_status cnn_device_use(cnn_device device);

/* CNN_DEVICE_CPU or CNN_DEVICE_CUDA. */
CNN_API cnn_device cnn_device_active(void);

/* "NVIDIA H100 80GB HBM3", or "CPU (avx512)". */
CNN_API const char *cnn_device_name(void);

/* On not 0: products of large convolutions and linear layers on the GPU take their factors rounded to TF32
   (10 bits of fraction) and sum in float32, on tensor cores. Off at first. On the CPU it changes nothing, but
   is remembered. CNN_ERR_DEVICE: the GPU in use, or the code built for it, is older than compute capability
   8.0. */
CNN_API cnn_status cnn_device_tf32(int on);

/* ---- >>tensor-api ---------------------------------------------------------------------------------- */

/* A dense float32 tensor, row by row: element (i, j, y, x) is data[((i*c + j)*h + y)*w + x]. Anyone may fill
   the struct in around memory of their own; a matrix of r rows and k columns is {r, k, 1, 1, data}, an image
   plane {1, 1, h, w, data}. Sizes are at least 1. */
typedef struct cnn_tensor {
    int n, c, h, w;
    float *data;
} cnn_tensor;

/* Gives *t the shape and zeroed memory of its own, aligned to 64 bytes. Whatever *t held is overwritten, not
   freed. CNN_ERR_SHAPE, CNN_ERR_NOMEM: *t untouched. */
CNN_API cnn_status cnn_tensor_alloc(cnn_tensor *t, int n, int c, int h, int w);

/* Frees what cnn_tensor_alloc gave and sets *t to zeros; a tensor with data NULL, or t NULL, is fine. */
CNN_API void cnn_tensor_free(cnn_tensor *t);

/* Elements: n*c*h*w, checked. CNN_ERR_SHAPE: a size below 1, or a product whose bytes overflow size_t. */
CNN_API cnn_status cnn_tensor_count(const cnn_tensor *t, size_t *count);

CNN_API cnn_status cnn_tensor_fill(cnn_tensor *t, float value);

/* dst = src, element by element; equal shapes; the two must not overlap unless they are the same memory. */
CNN_API cnn_status cnn_tensor_copy(cnn_tensor *dst, const cnn_tensor *src);

/* Changes the shape, not the data; the number of elements must stay. */
CNN_API cnn_status cnn_tensor_reshape(cnn_tensor *t, int n, int c, int h, int w);

/* ---- >>operator-api ----------------------------------------------------------------------------------

   Every operator is a function on tensors that the caller provides, shapes included. Rules for all:
     - y, dx and other results are overwritten; parameter gradients (dw, db, dkernel) are accumulated into:
       set them to zero before the first.
     - In a backward pass dx, dw and db may each be NULL: it is then not computed. dy has y's shape, dx x's,
       dw the weight's, db the bias's.
     - Results must not overlap inputs or each other, except where it says "in place".
     - A bias, and db, is {1, out, 1, 1}. An options pointer may be NULL: the defaults. Zero in an option
       means its default too, so {0} is always a start.
   Errors: CNN_ERR_ARGUMENT, CNN_ERR_SHAPE, and CNN_ERR_NOMEM where scratch memory is needed. */

/* Cross-correlation of two image planes, no padding, stride 1:
   y[i][j] = sum over a, b of x[i+a][j+b] * kernel[a][b]. x {1,1,H,W}, kernel {1,1,KH,KW}, y
   {1,1,H-KH+1,W-KW+1}. */
CNN_API cnn_status cnn_corr2d_forward(const cnn_tensor *x, const cnn_tensor *kernel, cnn_tensor *y);
CNN_API cnn_status cnn_corr2d_backward(const cnn_tensor *x, const cnn_tensor *kernel, const cnn_tensor *dy,
                                       cnn_tensor *dx, cnn_tensor *dkernel);

/* The convolution of mathematics: cross-correlation with the kernel flipped in both axes, valid part only. */
CNN_API cnn_status cnn_convolve2d_forward(const cnn_tensor *x, const cnn_tensor *kernel, cnn_tensor *y);
CNN_API cnn_status cnn_convolve2d_backward(const cnn_tensor *x, const cnn_tensor *kernel,
                                           const cnn_tensor *dy, cnn_tensor *dx, cnn_tensor *dkernel);

/* What lies outside the image (torch.nn.Conv2d's padding_mode). */
typedef enum cnn_padding_mode {
    CNN_PAD_ZEROS = 0,
    CNN_PAD_REFLECT,   /* mirrored without the edge: padding < size */
    CNN_PAD_REPLICATE, /* the edge repeated */
    CNN_PAD_CIRCULAR   /* the opposite side: padding <= size */
} cnn_padding_mode;

typedef struct cnn_conv2d_options {
    int stride_h, stride_w;                       /* 0: 1 */
    int pad_top, pad_bottom, pad_left, pad_right; /* at least 0 */
    int dilation_h, dilation_w;                   /* 0: 1 */
    int groups;                                   /* 0: 1; divides the input and the output channels */
    cnn_padding_mode padding_mode;
    int no_winograd; /* not 0: 3x3 convolutions of many channels are done directly, too */
} cnn_conv2d_options;

/* Convolution as networks mean it (cross-correlation over channels, torch.nn.functional.conv2d):
     y[n][o][i][j] = bias[o] + sum over c, a, b of
                     weight[o][c][a][b] * x[n][g*C/groups + c][i*stride_h + a*dilation_h - pad_top][...]
   x {N, C, H, W}, weight {O, C/groups, KH, KW}, bias {1, O, 1, 1} or NULL, y {N, O, OH, OW} with
     OH = (H + pad_top + pad_bottom - dilation_h*(KH-1) - 1) / stride_h + 1, rounded down; OW alike.
   groups = C is the depthwise convolution. 3x3 kernels with stride and dilation 1, padding up to 1, 6x6
   outputs or more and 16 channels or more on both sides go by Winograd's minimal filtering where that takes
   less work, dw where there are 12x12 outputs or more, or 240 in all images, unless no_winograd is set: up to
   three times as fast. The errors in 2^-23 of the sum of |weight * x|, largest and root mean square, seen
   with 16 to 96 channels: 11 and 0.6 in 10^8 outputs where signs are random (directly 2.6 and 0.2; the tests
   allow 8, which one in 10^7 exceeds), 19 and 1.6 where no signs differ (20 and 3.4). An x that is not finite
   spoils its 4x4 outputs. Networks do so 16 examples at a time, without groups, with up to 1,024 channels of
   both sides together, for dw 512; their workspaces then hold four times as much as those weights, in
   training eight times and four for the dw of each thread.
   The GPU does so from c*o = 30*(c + o) channels on, 60 on both sides, without groups, and not in TF32. */
CNN_API cnn_status cnn_conv2d_forward(const cnn_tensor *x, const cnn_tensor *weight, const cnn_tensor *bias,
                                      const cnn_conv2d_options *options, cnn_tensor *y);
CNN_API cnn_status cnn_conv2d_backward(const cnn_tensor *x, const cnn_tensor *weight, const cnn_tensor *dy,
                                       const cnn_conv2d_options *options, cnn_tensor *dx, cnn_tensor *dw,
                                       cnn_tensor *db);

/* Sets the sizes of *y, not its data, to those of the result. */
CNN_API cnn_status cnn_conv2d_shape(const cnn_tensor *x, const cnn_tensor *weight,
                                    const cnn_conv2d_options *options, cnn_tensor *y);

typedef struct cnn_pool2d_options {
    int kernel_h, kernel_w;     /* the window, at least 1; must be given */
    int stride_h, stride_w;     /* 0: the window */
    int pad_h, pad_w;           /* on both sides, at most half the window */
    int dilation_h, dilation_w; /* 0: 1; max pooling only */
    int ceil_mode;              /* not 0: sizes rounded up, as long as the last window starts on the image
                                   or its left or top padding */
    int exclude_padding;        /* not 0: padding is not counted in the average; average pooling only */
} cnn_pool2d_options;

/* Max pooling (torch.nn.functional.max_pool2d): padding counts as minus infinity. x {N, C, H, W},
   y {N, C, OH, OW}. indices, unless NULL, gets N*C*OH*OW positions: of the maximum (the first in a tie; the
   last NaN where there is one) within its plane, row*W + column, or -1 where a window has no element of the
   image. */
CNN_API cnn_status cnn_maxpool2d_forward(const cnn_tensor *x, const cnn_pool2d_options *options,
                                         cnn_tensor *y, int *indices);
/* dx[index] gets the sum of the dy that came from there. indices as the forward pass left them. */
CNN_API cnn_status cnn_maxpool2d_backward(const cnn_tensor *dy, const int *indices, cnn_tensor *dx);

/* Average pooling (torch.nn.functional.avg_pool2d): the padding is zeros and, unless excluded, counted. */
CNN_API cnn_status cnn_avgpool2d_forward(const cnn_tensor *x, const cnn_pool2d_options *options,
                                         cnn_tensor *y);
CNN_API cnn_status cnn_avgpool2d_backward(const cnn_tensor *dy, const cnn_pool2d_options *options,
                                          cnn_tensor *dx);

/* Sets the sizes of *y to those of the pooled x; max pooling if max is not 0 (only it has dilation). */
CNN_API cnn_status cnn_pool2d_shape(const cnn_tensor *x, const cnn_pool2d_options *options, int max,
                                    cnn_tensor *y);

/* Global average pooling: x {N, C, H, W}, y {N, C, 1, 1}, the mean of each plane. */
CNN_API cnn_status cnn_globalavgpool2d_forward(const cnn_tensor *x, cnn_tensor *y);
CNN_API cnn_status cnn_globalavgpool2d_backward(const cnn_tensor *dy, cnn_tensor *dx);

/* y = x weight^T + bias. x is N samples of c*h*w = IN values, weight {OUT, IN, 1, 1}, bias {1, OUT, 1, 1} or
   NULL, y {N, OUT, 1, 1}. */
CNN_API cnn_status cnn_linear_forward(const cnn_tensor *x, const cnn_tensor *weight, const cnn_tensor *bias,
                                      cnn_tensor *y);
CNN_API cnn_status cnn_linear_backward(const cnn_tensor *x, const cnn_tensor *weight, const cnn_tensor *dy,
                                       cnn_tensor *dx, cnn_tensor *dw, cnn_tensor *db);

/* Activations, element by element; x and y of equal shape, y may be x itself (in place). The backward passes
   take the result y, not x, and work in place too (dx may be dy or y). sigmoid 1/(1 + exp(-x)); tanh; relu
   max(x, 0), whose gradient at 0 is 0. Of NaN: NaN. Sigmoid, tanh and the exponential in softmax are right to
   4 units in the last place, where the result is neither subnormal nor beyond exp(88); to softmax the
   roundings of x - max and of the sum are added. */
CNN_API cnn_status cnn_sigmoid_forward(const cnn_tensor *x, cnn_tensor *y);
CNN_API cnn_status cnn_sigmoid_backward(const cnn_tensor *y, const cnn_tensor *dy, cnn_tensor *dx);
CNN_API cnn_status cnn_tanh_forward(const cnn_tensor *x, cnn_tensor *y);
CNN_API cnn_status cnn_tanh_backward(const cnn_tensor *y, const cnn_tensor *dy, cnn_tensor *dx);
CNN_API cnn_status cnn_relu_forward(const cnn_tensor *x, cnn_tensor *y);
CNN_API cnn_status cnn_relu_backward(const cnn_tensor *y, const cnn_tensor *dy, cnn_tensor *dx);

/* Softmax over the channels of every sample and position, stable for any finite x. Forward and backward work
   in place. */
CNN_API cnn_status cnn_softmax_forward(const cnn_tensor *x, cnn_tensor *y);
CNN_API cnn_status cnn_softmax_backward(const cnn_tensor *y, const cnn_tensor *dy, cnn_tensor *dx);

/* Dropout (torch.nn.functional.dropout): with training not 0, each element is zeroed with probability p,
   0 <= p < 1, and the others are multiplied by 1/(1-p); with training 0 it is the identity. Element i is kept
   or not by seed and i alone, so the backward pass given the same p, training and seed repeats the choice.
   Both work in place. */
CNN_API cnn_status cnn_dropout_forward(const cnn_tensor *x, float p, int training, uint64_t seed,
                                       cnn_tensor *y);
CNN_API cnn_status cnn_dropout_backward(const cnn_tensor *dy, float p, int training, uint64_t seed,
                                        cnn_tensor *dx);

/* x {N, C, H, W} to y {N, C*H*W, 1, 1} and back; in place nothing is moved. */
CNN_API cnn_status cnn_flatten_forward(const cnn_tensor *x, cnn_tensor *y);
CNN_API cnn_status cnn_flatten_backward(const cnn_tensor *dy, cnn_tensor *dx);

/* Mean over the N samples of -log softmax(logits)[label]: logits {N, K, 1, 1}, labels N values in 0..K-1
   (CNN_ERR_FORMAT otherwise, naming index and label). Stable for any finite logits. The backward pass gives
   dlogits = (softmax(logits) - onehot(label)) / N, in place allowed. */
CNN_API cnn_status cnn_cross_entropy_forward(const cnn_tensor *logits, const int *labels, double *loss);
CNN_API cnn_status cnn_cross_entropy_backward(const cnn_tensor *logits, const int *labels,
                                              cnn_tensor *dlogits);

typedef enum cnn_reduction { CNN_MEAN = 0, CNN_SUM } cnn_reduction;

/* Sum or mean over all elements of (y - target)^2; the gradient is 2 (y - target), over the count if mean; dy
   may be y or target (in place). */
CNN_API cnn_status cnn_squared_error_forward(const cnn_tensor *y, const cnn_tensor *target,
                                             cnn_reduction reduction, double *loss);
CNN_API cnn_status cnn_squared_error_backward(const cnn_tensor *y, const cnn_tensor *target,
                                              cnn_reduction reduction, cnn_tensor *dy);

/* ---- >>network-api --------------------------------------------------------------------------------- */

typedef enum cnn_layer_kind {
    CNN_CONV2D = 1,
    CNN_MAXPOOL2D,
    CNN_AVGPOOL2D,
    CNN_GLOBALAVGPOOL2D,
    CNN_LINEAR, /* takes every feature of a sample, flattened or not */
    CNN_SIGMOID,
    CNN_TANH,
    CNN_RELU,
    CNN_SOFTMAX,
    CNN_DROPOUT,
    CNN_FLATTEN
} cnn_layer_kind;

/* One layer of a network. Fields that a kind does not have must be 0; 0 is the usual default. A direction's
   own value, where not 0, goes before the common one: kernel = 3, kernel_w = 5 is a 3x5 window. */
typedef struct cnn_layer {
    cnn_layer_kind kind;
    int out;                                      /* conv2d: output channels; linear: output features */
    int kernel, kernel_h, kernel_w;               /* conv2d, pools */
    int stride, stride_h, stride_w;               /* conv2d: 0 is 1; pools: 0 is the window */
    int padding;                                  /* conv2d, pools: on every side */
    int pad_top, pad_bottom, pad_left, pad_right; /* conv2d; pools: top = bottom, left = right */
    int dilation, dilation_h, dilation_w;         /* conv2d, max pooling: 0 is 1 */
    int groups;                                   /* conv2d: 0 is 1 */
    cnn_padding_mode padding_mode;                /* conv2d */
    int no_bias;                                  /* conv2d, linear */
    int no_winograd;                              /* conv2d: see cnn_conv2d_forward */
    int ceil_mode;                                /* pools */
    int exclude_padding;                          /* average pooling */
    float p;                                      /* dropout: 0 is 0.5 */
} cnn_layer;

/* The same as functions, for C++ and for tables made at run time; other fields can be set on the result. */
CNN_API cnn_layer cnn_conv2d(int out, int kernel, int stride, int padding);
CNN_API cnn_layer cnn_maxpool2d(int kernel, int stride, int padding);
CNN_API cnn_layer cnn_avgpool2d(int kernel, int stride, int padding);
CNN_API cnn_layer cnn_globalavgpool2d(void);
CNN_API cnn_layer cnn_linear(int out);
CNN_API cnn_layer cnn_sigmoid(void);
CNN_API cnn_layer cnn_tanh(void);
CNN_API cnn_layer cnn_relu(void);
CNN_API cnn_layer cnn_softmax(void);
CNN_API cnn_layer cnn_dropout(float p);
CNN_API cnn_layer cnn_flatten(void);

/* What a layer makes of its input; for one example. */
typedef struct cnn_layer_info {
    const char *name;                  /* "conv2d", "maxpool2d", ... */
    int in_c, in_h, in_w;              /* input shape */
    int c, h, w;                       /* output shape */
    size_t weights, biases;            /* parameters */
    uint64_t macs;                     /* multiply-accumulates of conv2d and linear, a forward pass */
    uint64_t receptive_h, receptive_w; /* the input region, padding included, that one output sees */
    uint64_t bytes;                    /* of the output and the parameters */
} cnn_layer_info;

/* Infers the shapes of a table of count layers for an input of c*h*w and fills in info[count]; allocates
   nothing. An error names the layer: "layer 3 (conv2d): kernel 5x5 does not fit its 4x4 input". Layers are
   counted from 0. */
CNN_API cnn_status cnn_layers_infer(const cnn_layer *layers, int count, int c, int h, int w,
                                    cnn_layer_info *info);

typedef struct cnn_net cnn_net; /* a table of layers, checked, and its parameters */

/* Creates a network with parameters of zero. The table is copied. On an error *net is NULL. */
CNN_API cnn_status cnn_net_create(cnn_net **net, const cnn_layer *layers, int count, int c, int h, int w);
CNN_API void cnn_net_free(cnn_net *net); /* NULL is fine */

/* The same in memory of the caller's, any alignment, of at least the bytes that cnn_net_bytes says; it must
   outlive the network, which cnn_net_free then leaves to the caller. */
CNN_API cnn_status cnn_net_bytes(const cnn_layer *layers, int count, int c, int h, int w, size_t *bytes);
CNN_API cnn_status cnn_net_create_in(cnn_net **net, const cnn_layer *layers, int count, int c, int h, int w,
                                     void *memory, size_t bytes);

/* Distributions of initial weights. fan_in = in_channels/groups*KH*KW or IN; fan_out = out_channels*KH*KW or
   OUT (torch.nn.init). Biases are uniform in +-1/sqrt(fan_in), PyTorch's default, with all of them. */
typedef enum cnn_init {
    CNN_XAVIER_UNIFORM,  /* uniform in +-sqrt(6/(fan_in + fan_out)); Glorot and Bengio 2010 */
    CNN_XAVIER_NORMAL,   /* normal, deviation sqrt(2/(fan_in + fan_out)) */
    CNN_KAIMING_UNIFORM, /* uniform in +-sqrt(6/fan_in); He et al. 2015, for ReLU */
    CNN_KAIMING_NORMAL,  /* normal, deviation sqrt(2/fan_in) */
    CNN_PYTORCH_DEFAULT  /* uniform in +-1/sqrt(fan_in) */
} cnn_init;

CNN_API cnn_status cnn_net_init(cnn_net *net, cnn_init init, uint64_t seed);
CNN_API cnn_status cnn_net_init_constant(cnn_net *net, float weight, float bias);

/* All parameters, one block: for each layer in turn its weight, then its bias. */
CNN_API float *cnn_net_parameters(cnn_net *net);
CNN_API size_t cnn_net_parameter_count(const cnn_net *net);

CNN_API int cnn_net_layer_count(const cnn_net *net);
CNN_API const cnn_layer *cnn_net_layer(const cnn_net *net, int layer);           /* NULL: no such layer */
CNN_API const cnn_layer_info *cnn_net_layer_info(const cnn_net *net, int layer); /* NULL: no such layer */

/* Views of a layer's parameters within the block; data NULL where it has none. weight, bias may be NULL. */
CNN_API cnn_status cnn_net_layer_parameters(const cnn_net *net, int layer, cnn_tensor *weight,
                                            cnn_tensor *bias);

typedef enum cnn_mode {
    CNN_INFERENCE = 0, /* cnn_forward; dropout is the identity */
    CNN_TRAINING, /* cnn_forward, cnn_backward and cnn_train_step: keeps the activations of a whole batch */
    CNN_TRAINING_STEP /* cnn_train_step alone: keeps the activations of one block of examples a thread */
} cnn_mode;

/* Activations, and in training gradients, for networks of one shape. */
typedef struct cnn_workspace cnn_workspace;

/* A workspace for up to batch examples at a time. threads: how many it uses, 0 for cnn_max_threads(). The
   net's shape must not change; its parameters may. On an error *ws is NULL. */
CNN_API cnn_status cnn_workspace_create(cnn_workspace **ws, const cnn_net *net, cnn_mode mode, int batch,
                                        int threads);
CNN_API void cnn_workspace_free(cnn_workspace *ws); /* NULL is fine */
CNN_API cnn_status cnn_workspace_bytes(const cnn_net *net, cnn_mode mode, int batch, int threads,
                                       size_t *bytes);
CNN_API cnn_status cnn_workspace_create_in(cnn_workspace **ws, const cnn_net *net, cnn_mode mode, int batch,
                                           int threads, void *memory, size_t bytes);

/* Gradients, one block in the order of the parameters; NULL in a workspace for inference. */
CNN_API float *cnn_workspace_gradients(cnn_workspace *ws);

/* Seeds dropout; each training pass then draws new masks. A new workspace has seed 0. */
CNN_API void cnn_workspace_seed(cnn_workspace *ws, uint64_t seed);

/* y = net(x) for x {N, c, h, w}, N at most the workspace's batch; y has N samples of the last layer's shape
   (any split of c, h, w with as many elements). */
CNN_API cnn_status cnn_forward(const cnn_net *net, cnn_workspace *ws, const cnn_tensor *x, cnn_tensor *y);

/* After cnn_forward in a workspace of CNN_TRAINING, with the parameters and x unchanged: accumulates the
   parameter gradients for dy, and overwrites dx unless it is NULL. */
CNN_API cnn_status cnn_backward(const cnn_net *net, cnn_workspace *ws, const cnn_tensor *dy, cnn_tensor *dx);

/* The class of the greatest output, the first in a tie, for each sample of x; classes has x->n elements. */
CNN_API cnn_status cnn_predict(const cnn_net *net, cnn_workspace *ws, const cnn_tensor *x, int *classes);

/* ---- >>data-api ------------------------------------------------------------------------------------ */

/* Labelled examples of c*h*w values. Plain data: anyone may fill it in. Exactly one of bytes (value =
   byte/255) and floats is not NULL. To use a part of a data set, lower count. */
typedef struct cnn_dataset {
    int count, c, h, w;
    int classes; /* labels are 0..classes-1 */
    const unsigned char *bytes;
    const float *floats;
    const unsigned char *labels;
    void *memory; /* what cnn_dataset_free frees; NULL where the caller owns the memory */
} cnn_dataset;

/* Views IDX images (unsigned bytes, 3 dimensions) and labels (1 dimension) held in memory; copies nothing.
   Every header field is checked against the size, every label against classes (at most 256). */
CNN_API cnn_status cnn_dataset_from_idx(cnn_dataset *data, const void *images, size_t image_bytes,
                                        const void *labels, size_t label_bytes, int classes);
#ifndef CNN_NO_STDIO
/* Reads an IDX image file and label file. CNN_ERR_IO, CNN_ERR_FORMAT (naming file and field), CNN_ERR_NOMEM:
   *data untouched. */
CNN_API cnn_status cnn_dataset_load_idx(cnn_dataset *data, const char *image_file, const char *label_file,
                                        int classes);
#endif
CNN_API void cnn_dataset_free(cnn_dataset *data);

/* Gathers examples index[0..x->n-1] into x {N, c, h, w} as floats, and their labels into labels unless NULL.
   index NULL: the examples from 0. CNN_ERR_ARGUMENT: an index outside the data set. */
CNN_API cnn_status cnn_dataset_batch(const cnn_dataset *data, const int *index, cnn_tensor *x, int *labels);

/* index[0..count-1] = a random permutation of 0..count-1, by seed and epoch alone. */
CNN_API void cnn_shuffle(int *index, int count, uint64_t seed, uint64_t epoch);

/* ---- >>training-api -------------------------------------------------------------------------------- */

/* torch.optim.SGD, in this order: g += weight_decay*p; v = momentum*v + g; g = nesterov ? g + momentum*v : v
   (without momentum g stays); p -= lr*g. */
typedef struct cnn_sgd_options {
    float lr;           /* learning rate, greater than 0; must be given */
    float momentum;     /* at least 0 */
    float weight_decay; /* at least 0 */
    int nesterov;       /* needs momentum */
} cnn_sgd_options;

/* One step on count parameters. velocity: count floats, zero before the first step; may be NULL without
   momentum. parameters and velocity are overwritten, gradients are not. */
CNN_API cnn_status cnn_sgd_step(const cnn_sgd_options *options, float *parameters, const float *gradients,
                                float *velocity, size_t count);

/* Forward pass, softmax cross-entropy and backward pass of examples index[0..n-1], n at most the workspace's
   batch: gradients of the mean loss REPLACE those in the workspace. Adds the sum of the losses to *loss and
   the number of right predictions to *correct (either may be NULL). A batch in ten lines:

       cnn_workspace_create(&ws, net, CNN_TRAINING_STEP, batch, 0);
       for (int epoch = 1; epoch <= epochs; epoch++) {
           double loss = 0;
           cnn_shuffle(index, data.count, seed, (uint64_t)epoch);
           for (int i = 0; i + batch <= data.count; i += batch) {
               cnn_train_step(net, ws, &data, index + i, batch, &loss, NULL);
               cnn_sgd_step(&sgd, cnn_net_parameters(net), cnn_workspace_gradients(ws), velocity,
                            cnn_net_parameter_count(net));
           }
       }

   CNN_ERR_DIVERGED: a loss that is not finite. */
CNN_API cnn_status cnn_train_step(const cnn_net *net, cnn_workspace *ws, const cnn_dataset *data,
                                  const int *index, int n, double *loss, int *correct);

/* Where training stands. */
typedef struct cnn_progress {
    int epoch, epochs;               /* the current epoch, from 1 */
    int step, steps;                 /* batches done in this epoch, of how many */
    double loss, accuracy;           /* means over this epoch's examples so far, as they were trained on */
    double test_loss, test_accuracy; /* on_epoch and the result, with a test set; -1 otherwise */
    double examples_per_second;      /* training steps only, since the start of cnn_fit */
    int stopped;                     /* the result: a callback stopped the training */
} cnn_progress;

/* Called on the thread that called cnn_fit; not 0 stops the training (cnn_fit then returns CNN_OK). */
typedef int (*cnn_callback)(const cnn_progress *progress, void *user);

typedef struct cnn_fit_options {
    int epochs; /* at least 1; must be given */
    int batch;  /* at least 1, at most the data set's count; must be given. The last batch of an epoch is
                   the rest */
    cnn_sgd_options sgd; /* sgd.lr must be given */
    float lr_end; /* 0: sgd.lr throughout; else the learning rate falls evenly, step by step, to lr_end at the
                     last */
    uint64_t seed; /* of the shuffling and of dropout */
    int threads;   /* 0: cnn_max_threads() */
    int reports;   /* calls of on_progress an epoch, evenly spread, the last at its end; 0: 5; at most one
                      a step */
    cnn_callback on_progress;
    cnn_callback on_epoch; /* after each epoch and its evaluation on the test set */
    void *user;            /* handed to both */
} cnn_fit_options;

/* Trains net on train, shuffled anew each epoch; evaluates on test after each epoch unless test is NULL.
   result, unless NULL, gets the last progress. A loss that is not finite stops it: CNN_ERR_DIVERGED, with a
   sentence on the learning rate; the parameters are then of no use. */
CNN_API cnn_status cnn_fit(cnn_net *net, const cnn_dataset *train, const cnn_dataset *test,
                           const cnn_fit_options *options, cnn_progress *result);

typedef struct cnn_evaluation {
    double loss, accuracy; /* mean cross-entropy, and share of right predictions */
    int *confusion; /* unless NULL on the call: classes*classes counts, row = label, column = prediction */
} cnn_evaluation;

/* Runs the network over a data set. The network's outputs are logits, one a class. */
CNN_API cnn_status cnn_evaluate(const cnn_net *net, const cnn_dataset *data, int threads,
                                cnn_evaluation *evaluation);

#ifdef __cplusplus
}
#endif
#endif /* CNN_H */

#if defined(CNN_IMPLEMENTATION) && !defined(CNN__IMPLEMENTATION_BEGUN)
#define CNN__IMPLEMENTATION_BEGUN

/* ==== implementation ==================================================================================

   Two layouts. Tensors of the public interface are NCHW ("planar"). Within a network a BLOCK of CNN__LANES
   examples is kept with the examples innermost, [c][h][w][CNN__LANES]: every operator is then whole vectors
   without edges, and one thread takes a block from the input to the last gradient while it is in cache. A
   CELL is the memory of one pixel: 1 float in a plane, CNN__LANES floats in a block.

   Two kernels do nearly all the arithmetic. A convolution is a matrix product whose row k is the padded
   image shifted by a fixed offset, so `product` serves convolutions, linear layers and their input gradients
   without a copy of the image per kernel element; `dot` serves the weight gradients. */

/* ---- >>config -------------------------------------------------------------------------------------- */

#if defined(CNN_MALLOC) != defined(CNN_FREE)
#error "cnn.h: define both CNN_MALLOC(bytes) and CNN_FREE(pointer), or neither"
#endif
#if defined(CNN_CUDA) && !defined(__CUDACC__) && !defined(CNN__CUDA_SHIM)
#error "CNN_CUDA: compile the file with CNN_IMPLEMENTATION by nvcc: nvcc -x cu -DCNN_CUDA -c FILE.c"
#endif
#ifndef CNN_MALLOC
#include <stdlib.h>
#define CNN_MALLOC(bytes) malloc(bytes)
#define CNN_FREE(pointer) free(pointer)
#endif

#define CNN__LANES          16    /* examples in a block: one AVX-512 vector, two AVX2 vectors, ... */
#define CNN__SINGLES        8     /* examples beyond whole blocks that are not worth a block of their own */
#define CNN__ALIGN          64    /* bytes; a cache line, an AVX-512 vector */
#define CNN__PAGE_FLOATS    2048  /* of a plane, or weights of an output, from which on the next is fetched */
#define CNN__SMALL_WORK     2e5   /* multiply-accumulates below which starting threads costs too much */
#define CNN__CACHE_FLOATS   65536 /* 256 KiB: a share of the second-level cache */
#define CNN__CHUNK          256   /* steps of a product at a time */
#define CNN__COLUMNS        12    /* vectors of a product at a time */
#define CNN__GATHER         48    /* columns of a product whose x is gathered, and */
#define CNN__GATHER_STEPS   160   /* steps of it at a time: 30 KiB of the first-level cache */
#define CNN__GATHER_ROWS    32    /* rows from which that pays */
#define CNN__WINO_INPUT     2000000 /* transformed inputs in a run of tiles, floats */
#define CNN__WINO_INPUTS    1400000 /* the same where several threads have theirs in one third-level cache */
#define CNN__WINO_RUN       208     /* tiles in a run at most */
#define CNN__WINO_WEIGHTS   450000  /* transformed weights at a time, floats */
#define CNN__KEPT_CHANNELS  1024    /* of both sides together, whose weights a network keeps transformed */
#define CNN__WINO_CACHED    150000  /* transformed gradients of weights that stay in the cache, floats */
#define CNN__WINO_SLOT      96      /* tiles whose gradient of weights is worth a sum of its own */
#define CNN__WINO_SUMS      2500000 /* gradients of weights in all slots, floats */
#define CNN__STRIP_FLOATS   131072  /* a packed strip of a plane */
#define CNN__SLOT_WEIGHTS   16384   /* of a planar convolution, whose dw is summed in slots of images */
#define CNN__DOT_PLANE      320     /* pixels of a 1x1 convolution whose dw is taken by dot products */
#define CNN__DOT_OUTPUTS    256     /* and outputs from which on transposing its image pays, nevertheless */
#define CNN__DOT_PIXELS     1024    /* of dot products at a time: a tile's stay in the first-level cache, */
#define CNN__DOT_STEPS      60      /* those of so many steps in the second-level one */
#define CNN__STRIP_COLUMNS  96      /* outputs below which a strip is not worth cutting off */
#define CNN__STRIP_ROWS     4       /* most rows in a strip; going backward, in half of one */
#define CNN__STRIP_CHANNELS 4       /* going backward, most channels of a strip at a time */
#define CNN__STRIP_WEIGHTS  512     /* most weights whose gradient is taken by strips: 32 KiB of lanes */
#define CNN__BAND           8       /* output rows of a depthwise tile */
#define CNN__TALL           3       /* most rows of a kernel that share a load in it */
#define CNN__BAND_FLOATS    6144    /* a packed strip of a depthwise plane: half of the first-level cache */
#define CNN__MULTIPLIER     4       /* outputs of a depthwise channel beyond which it is a product */
#define CNN__BEYOND         10      /* most positions of a tile with outputs as lanes */
#define CNN__SLOT_BYTES     64e6    /* what a workspace spends on partial gradients beyond four slots */

/* ---- >>platform ------------------------------------------------------------------------------------ */

#include <float.h>
#include <limits.h>
#include <math.h>
#include <stdarg.h>
#include <string.h>
#include <time.h>
#ifndef CNN_NO_STDIO
#include <stdio.h>
#endif
#if defined(_OPENMP) && !defined(CNN_NO_OPENMP)
#include <omp.h>
#define CNN__OPENMP 1
#else
#define CNN__OPENMP 0
#endif

#if defined(__cplusplus)
#define CNN__RESTRICT __restrict
#else
#define CNN__RESTRICT restrict
#endif

/* GNU: vector types, function attributes, inline assembly as GCC and Clang have them. */
#if defined(__GNUC__) && !defined(__TINYC__)
#define CNN__GNU          1
#define CNN__INLINE       static inline __attribute__((always_inline, unused))
#define CNN__MAYBE        __attribute__((unused))
#define CNN__OUTLINE      __attribute__((noinline))       /* large, or called all over: soon compiled */
#define CNN__COLD         __attribute__((cold, noinline)) /* once a call or less: small code, soon compiled */
#define CNN__THREAD       __thread
#define CNN__PREFETCH(p)  __builtin_prefetch(p, 0, 3)
#define CNN__OPAQUE(p)    __asm__("" : "+r"(p)) /* the address is not worked out beforehand, and spilled */
#define CNN__PRINTF(a, b) __attribute__((format(printf, a, b)))
#else
#define CNN__GNU    0
#define CNN__INLINE static
#define CNN__MAYBE
#define CNN__OUTLINE
#define CNN__COLD
#define CNN__PREFETCH(p) ((void)0)
#define CNN__OPAQUE(p)   ((void)0)
#define CNN__PRINTF(a, b)
#if defined(_MSC_VER)
#define CNN__THREAD __declspec(thread)
#elif defined(__cplusplus)
#define CNN__THREAD thread_local
#elif defined(__STDC_VERSION__) && __STDC_VERSION__ >= 201112L && !defined(__STDC_NO_THREADS__)
#define CNN__THREAD _Thread_local
#else
#define CNN__THREAD
#endif
#endif

/* Sums must not depend on the tile that takes them, but tuned for some processors (-march=native) GCC makes a
   product and a sum one instruction in some loops and not in others. Kernels say where they want that. */
#if defined(__x86_64__) || defined(__i386__)
#define CNN__NO_CONTRACTION _Pragma("GCC optimize(\"fp-contract=off\")")
#else
#define CNN__NO_CONTRACTION
#endif

/* GCC compiles all of this in half the time so. Between BRIEFLY and END lies what drives the kernels: -Og will
   do, but for loops over memory, marked LOOPS. Between KERNELS and END, the kernels: -O2 but for passes that take
   time over unrolled loops and leave them as they are (GCC 11 and 12; tests/bench/NOTES.md). THOROUGH
   marks kernels that want the last four of these after all, STRIDED those that want two, for addresses. */
#if !CNN__GNU || defined(__clang__) || defined(__CUDACC__) || !defined(__OPTIMIZE__)
#define CNN__OPTIMIZE_BRIEFLY
#define CNN__OPTIMIZE_KERNELS
#define CNN__OPTIMIZE_END
#define CNN__LOOPS
#define CNN__THOROUGH
#define CNN__STRIDED
#elif defined(__OPTIMIZE_SIZE__)
#define CNN__OPTIMIZE_BRIEFLY _Pragma("GCC push_options")
#define CNN__OPTIMIZE_KERNELS _Pragma("GCC push_options") CNN__NO_CONTRACTION
#define CNN__OPTIMIZE_END     _Pragma("GCC pop_options")
#define CNN__LOOPS
#define CNN__THOROUGH
#define CNN__STRIDED
#else
#define CNN__PRAGMA(...)      _Pragma(#__VA_ARGS__)
#define CNN__OPTIMIZE(...)    CNN__PRAGMA(GCC optimize(__VA_ARGS__))
#define CNN__OPTIMIZE_BRIEFLY _Pragma("GCC push_options") CNN__OPTIMIZE("Og")
#define CNN__OPTIMIZE_KERNELS                                                                                \
    _Pragma("GCC push_options") CNN__NO_CONTRACTION CNN__OPTIMIZE(                                           \
        "no-schedule-insns2", "no-peephole2", "no-tree-vectorize", "no-rerun-cse-after-loop",                \
        "no-cse-follow-jumps", "no-tree-dse", "no-tree-bit-ccp", "no-tree-copy-prop", "no-tree-pre",         \
        "no-tree-dominator-opts", "no-gcse", "no-code-hoisting", "no-tree-slsr")
#define CNN__OPTIMIZE_END _Pragma("GCC pop_options")
#define CNN__LOOPS                                                                                           \
    __attribute__((optimize("O1", "strict-aliasing", "expensive-optimizations", "store-merging")))
#define CNN__THOROUGH __attribute__((optimize("tree-dominator-opts", "gcse", "code-hoisting", "tree-slsr")))
#define CNN__STRIDED  __attribute__((optimize("code-hoisting", "tree-slsr")))
#endif

/* -ffast-math and what it consists of would fold exp's rounding to an integer away, forget NaN, and let sums
   depend on the tile that takes them: off within this header. */
#if defined(__FAST_MATH__) || defined(__ASSOCIATIVE_MATH__) || defined(__RECIPROCAL_MATH__) ||               \
    (defined(__FINITE_MATH_ONLY__) && __FINITE_MATH_ONLY__) || defined(_M_FP_FAST)
#define CNN__FAST_MATH 1
#if defined(__clang__) || defined(_MSC_VER)
#pragma float_control(precise, on, push)
#elif CNN__GNU && !defined(__CUDACC__)
#pragma GCC push_options
#pragma GCC optimize("no-fast-math")
#endif
#endif

#if CNN__GNU && !defined(CNN_NO_SIMD) && !(defined(__i386__) && !defined(__SSE2__))
#define CNN__VECTORS 1
#else
#define CNN__VECTORS 0
#endif
#if CNN__VECTORS && defined(__x86_64__)
#define CNN__X86 1
#include <immintrin.h>
#else
#define CNN__X86 0
#endif
#if CNN__VECTORS && defined(__aarch64__) && defined(__ARM_NEON)
#define CNN__NEON 1
#include <arm_neon.h>
#else
#define CNN__NEON 0
#endif

/* What kernels of the GPU call too; nvcc does not know the host compiler's pragmas, but hands them on. */
#ifdef CNN_CUDA
#define CNN__BOTH __host__ __device__
#else
#define CNN__BOTH
#endif
#ifdef __NVCC__
#pragma nv_diag_suppress 1675
#endif

/* Loops over accumulators must be unrolled wholly, or they live in memory: 3 times slower. */
#if defined(__clang__)
#define CNN__UNROLL _Pragma("clang loop unroll(full)")
#elif CNN__GNU
#define CNN__UNROLL _Pragma("GCC unroll 32")
#else
#define CNN__UNROLL
#endif

/* A subnormal operand makes an instruction tens of times slower, and saturated sigmoids make many: inside the
   library they count as zero. Returns the caller's mode, for cnn__float_mode_restore. */
CNN__INLINE uint64_t cnn__float_mode_set(void) {
#if CNN__GNU && defined(__x86_64__)
    unsigned mode = 0;
    __asm__ volatile("stmxcsr %0" : "=m"(mode));
    const unsigned flushing = mode | 0x8040u; /* flush to zero, denormals are zero */
    __asm__ volatile("ldmxcsr %0" : : "m"(flushing));
    return mode;
#elif CNN__GNU && defined(__aarch64__)
    uint64_t mode = 0;
    __asm__ volatile("mrs %0, fpcr" : "=r"(mode));
    __asm__ volatile("msr fpcr, %0" : : "r"(mode | (1u << 24)));
    return mode;
#else
    return 0;
#endif
}

CNN__INLINE void cnn__float_mode_restore(uint64_t mode) {
#if CNN__GNU && defined(__x86_64__)
    const unsigned saved = (unsigned)mode;
    __asm__ volatile("ldmxcsr %0" : : "m"(saved));
#elif CNN__GNU && defined(__aarch64__)
    __asm__ volatile("msr fpcr, %0" : : "r"(mode));
#else
    (void)mode;
#endif
}

/* Calls body(context, i, thread) for i in 0..tasks-1, thread in 0..threads-1. Each thread takes one
   contiguous range, so the split is static; what a task computes must not depend on it. */
typedef void (*cnn__task)(void *context, int task, int thread);

CNN__OUTLINE static void cnn__parallel(int threads, int tasks, cnn__task body, void *context) {
#if CNN__OPENMP
    if (threads > 1 && tasks > 1) {
        if (threads > tasks)
            threads = tasks;
#pragma omp parallel num_threads(threads)
        {
            const uint64_t mode = cnn__float_mode_set();
            const int thread = omp_get_thread_num(), team = omp_get_num_threads();
            const int end = (int)((int64_t)tasks * (thread + 1) / team);
            for (int i = (int)((int64_t)tasks * thread / team); i < end; i++)
                body(context, i, thread);
            cnn__float_mode_restore(mode);
        }
        return;
    }
#endif
    (void)threads;
    const uint64_t mode = cnn__float_mode_set();
    for (int i = 0; i < tasks; i++)
        body(context, i, 0);
    cnn__float_mode_restore(mode);
}

CNN_API int cnn_max_threads(void) {
#if CNN__OPENMP
    const int most = omp_get_max_threads(), processors = most > 1 ? omp_get_num_procs() : 1;
    return most < processors ? most : processors;
#else
    return 1;
#endif
}

/* Threads worth starting for an operator of so many multiply-accumulates (or elements). */
CNN__OUTLINE static int cnn__threads_for(double work) {
    return work < CNN__SMALL_WORK ? 1 : cnn_max_threads();
}

/* Seconds from some point in the past. Without OpenMP and C11 it is processor time, which for one busy thread
   is the same. */
static double cnn__seconds(void) {
#if CNN__OPENMP
    return omp_get_wtime();
#elif defined(TIME_UTC)
    struct timespec t;
    timespec_get(&t, TIME_UTC);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
#else
    return (double)clock() / (double)CLOCKS_PER_SEC;
#endif
}

/* ---- >>error --------------------------------------------------------------------------------------- */

#define CNN__MESSAGE 320

static CNN__THREAD char cnn__message[CNN__MESSAGE];

typedef struct cnn__writer {
    char *text;
    size_t length, size;
} cnn__writer;

static void cnn__put(cnn__writer *out, char c) {
    if (out->length + 1 < out->size)
        out->text[out->length++] = c;
}

static void cnn__put_text(cnn__writer *out, const char *s) {
    while (*s)
        cnn__put(out, *s++);
}

static void cnn__put_integer(cnn__writer *out, uint64_t value, int digits) {
    char reversed[24];
    int n = 0;
    do {
        reversed[n++] = (char)('0' + value % 10);
        value /= 10;
    } while (value || n < digits);
    while (n)
        cnn__put(out, reversed[--n]);
}

/* As printf's %g: six significant digits, no zeros at the end. */
CNN__COLD static void cnn__put_real(cnn__writer *out, double value) {
    if (value != value) {
        cnn__put_text(out, "nan");
        return;
    }
    if (value < 0) {
        cnn__put(out, '-');
        value = -value;
    }
    if (value > DBL_MAX) {
        cnn__put_text(out, "inf");
        return;
    }
    int power = value > 0 ? (int)floor(log10(value)) : 0;
    uint64_t digits = (uint64_t)(value / pow(10, power) * 1e5 + 0.5); /* d.ddddd */
    if (digits >= 1000000u) {
        digits /= 10;
        power++;
    }
    const int scientific = power < -4 || power >= 6;
    int decimals = scientific ? 5 : 5 - power; /* behind the point */
    while (decimals > 0 && digits % 10 == 0) {
        digits /= 10;
        decimals--;
    }
    uint64_t unit = 1;
    for (int i = 0; i < decimals; i++)
        unit *= 10;
    cnn__put_integer(out, digits / unit, 1);
    if (decimals) {
        cnn__put(out, '.');
        cnn__put_integer(out, digits % unit, decimals);
    }
    if (scientific) {
        cnn__put_text(out, power < 0 ? "e-" : "e+");
        cnn__put_integer(out, (uint64_t)(power < 0 ? -power : power), 2);
    }
}

/* Writes the sentence and returns the status. The directives are %s %d %zu %g alone, so that no stdio is
   needed and no locale matters. */
CNN__COLD CNN__PRINTF(2, 3) static cnn_status cnn__fail(cnn_status status, const char *format, ...) {
    char text[CNN__MESSAGE]; /* an argument may be the last message itself */
    cnn__writer out = {text, 0, sizeof text};
    va_list args;
    va_start(args, format);
    for (const char *f = format; *f; f++) {
        if (*f != '%') {
            cnn__put(&out, *f);
            continue;
        }
        f++;
        if (*f == 's') {
            cnn__put_text(&out, va_arg(args, const char *));
        } else if (*f == 'd') {
            const int value = va_arg(args, int);
            if (value < 0)
                cnn__put(&out, '-');
            cnn__put_integer(&out, (uint64_t)(value < 0 ? -(int64_t)value : (int64_t)value), 1);
        } else if (*f == 'z') {
            f++;
            cnn__put_integer(&out, (uint64_t)va_arg(args, size_t), 1);
        } else {
            cnn__put_real(&out, va_arg(args, double));
        }
    }
    va_end(args);
    text[out.length] = 0;
    memcpy(cnn__message, text, out.length + 1);
    return status;
}

CNN_API const char *cnn_last_error(void) {
    return cnn__message;
}

CNN_API const char *cnn_status_name(cnn_status status) {
    static const char *const names[] = {"ok",           "argument", "shape",    "out of memory",
                                        "input/output", "format",   "diverged", "device"};
    return (int)status >= 0 && (int)status <= (int)CNN_ERR_DEVICE ? names[(int)status] : "unknown";
}

CNN_API const char *cnn_version(void) {
    return CNN_VERSION;
}

/* ---- >>memory -------------------------------------------------------------------------------------- */

/* a*b, or SIZE_MAX where it overflows; SIZE_MAX stays SIZE_MAX unless the other factor is 0. */
CNN__OUTLINE static size_t cnn__mul(size_t a, size_t b) {
    return b && a > SIZE_MAX / b ? SIZE_MAX : a * b;
}

CNN__OUTLINE static size_t cnn__add(size_t a, size_t b) {
    return a > SIZE_MAX - b ? SIZE_MAX : a + b;
}

CNN__OUTLINE static size_t cnn__round_up(size_t a, size_t unit) { /* SIZE_MAX where it overflows */
    return a > SIZE_MAX - (unit - 1) ? SIZE_MAX : (a + unit - 1) / unit * unit;
}

/* What lies just before each piece of memory: where it truly starts, and how it is given back. */
typedef struct cnn__origin {
    void *start;
    void (*release)(void *start);
} cnn__origin;

/* The first aligned byte with room for its origin; start has CNN__ALIGN + sizeof(cnn__origin) bytes more than
   the caller asked for. */
static void *cnn__place(void *start, void (*release)(void *)) {
    const cnn__origin origin = {start, release};
    char *p = (char *)start + sizeof origin;
    p += (CNN__ALIGN - (uintptr_t)p % CNN__ALIGN) % CNN__ALIGN;
    memcpy(p - sizeof origin, &origin, sizeof origin);
    return p;
}

static void cnn__release(void *start) {
    CNN_FREE(start);
}

/* Aligned memory. NULL on failure. */
static void *cnn__alloc_raw(size_t bytes) {
    const size_t total = cnn__add(bytes, CNN__ALIGN + sizeof(cnn__origin));
    void *start = total == SIZE_MAX ? NULL : CNN_MALLOC(total);
    if (!start)
        return NULL;
    return cnn__place(start, cnn__release);
}

static void *cnn__alloc(size_t bytes) { /* zeroed */
    void *p = cnn__alloc_raw(bytes);
    if (p)
        memset(p, 0, bytes);
    return p;
}

CNN__OUTLINE static void cnn__free(void *p) {
    cnn__origin origin;
    if (!p)
        return;
    memcpy(&origin, (char *)p - sizeof origin, sizeof origin);
    origin.release(origin.start);
}

/* Hands out aligned pieces of one stretch of memory. With base NULL it only counts, so the same code plans
   the size and carves the memory up; `used` is SIZE_MAX once a size has overflowed. */
typedef struct cnn__arena {
    char *base;
    size_t used;
} cnn__arena;

CNN__OUTLINE static void *cnn__take(cnn__arena *arena, size_t count, size_t size) {
    char *p = arena->base ? arena->base + arena->used : NULL;
    arena->used = cnn__add(arena->used, cnn__round_up(cnn__mul(count, size), CNN__ALIGN));
    return p;
}

CNN__OUTLINE static float *cnn__take_floats(cnn__arena *arena, size_t count) {
    return (float *)cnn__take(arena, count, sizeof(float));
}

/* The first aligned byte of the caller's memory, or NULL where it is smaller than the size reported to
   callers, which includes CNN__ALIGN - 1 for this. */
static char *cnn__align_within(void *memory, size_t bytes, size_t need) {
    const size_t skip = (CNN__ALIGN - (uintptr_t)memory % CNN__ALIGN) % CNN__ALIGN;
    return bytes < cnn__add(need, CNN__ALIGN - 1) ? NULL : (char *)memory + skip;
}

/* ---- >>random --------------------------------------------------------------------------------------

   Element i of the stream of a seed, reached directly (SplitMix64; Steele, Lea and Flood 2014): the same
   numbers whatever the order in which threads, or a device, ask for them. */

CNN__BOTH static uint64_t cnn__random(uint64_t seed, uint64_t i) {
    uint64_t z = seed + (i + 1) * 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

/* Uniform in [0, 1), a multiple of 2^-24. */
CNN__BOTH static float cnn__uniform(uint64_t seed, uint64_t i) {
    return (float)(cnn__random(seed, i) >> 40) * (1.0f / 16777216.0f);
}

/* Standard normal (Box and Muller 1958). */
CNN__BOTH static float cnn__normal(uint64_t seed, uint64_t i) {
    const uint64_t bits = cnn__random(seed, i);
    const double u = ((double)(bits >> 32) + 1.0) / 4294967296.0; /* (0, 1] */
    const double v = (double)(bits & 0xffffffffu) / 4294967296.0;
    return (float)(sqrt(-2.0 * log(u)) * cos(6.283185307179586 * v));
}

CNN_API void cnn_shuffle(int *index, int count, uint64_t seed, uint64_t epoch) {
    const uint64_t stream = cnn__random(seed, epoch);
    for (int i = 0; i < count; i++)
        index[i] = i;
    for (int i = count - 1; i > 0; i--) { /* Fisher and Yates; a 32-bit fraction times i + 1 */
        const int j = (int)((cnn__random(stream, (uint64_t)i) >> 32) * (uint64_t)(i + 1) >> 32);
        const int t = index[i];
        index[i] = index[j];
        index[j] = t;
    }
}

static int cnn__min(int a, int b) {
    return a < b ? a : b;
}

static int cnn__max(int a, int b) {
    return a > b ? a : b;
}

static int cnn__ceil_div(int a, int b) {
    return a / b + (a % b != 0);
}

static int cnn__clamp(int value, int low, int high) {
    return value < low ? low : value > high ? high : value;
}

/* ---- what kernels are called with ------------------------------------------------------------------- */

typedef enum cnn__start { CNN__ZERO, CNN__BIAS, CNN__ACCUMULATE } cnn__start;

/* y[m*ym + p] = start + sum over k of W(m, k) * x[p + tap[k - first]], m < rows, first <= k < first + steps,
   p < n. Where start is 0, bias[m], or what y holds. Each sum runs over k in order: its bits depend on
   nothing else. W lies in PANELS: its rows in runs of cnn__panel_rows, the panel of row m0 at w + m0*panel,
   there for each k the weights of its rows together, `wk` floats from step to step, or, with wk 0, as many as
   it has rows. So a tile finds the weights of a step at constant distances, which saves it a third of its
   instructions. Written by cnn__panels; a matrix with W(m, k) at w[m + k*wk] is one as it stands, panel 1. */
typedef struct cnn__product {
    int rows, first, steps;
    size_t n;
    const int *tap;
    const float *x, *w, *bias;
    ptrdiff_t panel, wk;
    float *y;
    ptrdiff_t ym;
    cnn__start start;
    int gather;        /* x's steps lie far apart, or across cache lines: with many rows gather them first */
    int slack;         /* x may be read on to the end of the last vector */
    int packed;        /* x's steps lie CNN__GATHER apart, as gathering leaves them */
    const float *from; /* what the first panel's tiles are to copy to x = to; or NULL: it is there */
    const int *from_tap;
    float *to;
    int ahead; /* columns after these that come next, to be fetched meanwhile; or 0 */
} cnn__product;

/* Rows of the next panel where `left` are left and tiles have at most `most`. No rest of one row: a tile of
   one is slow. */
static int cnn__panel_rows(int most, int left) {
    if (most == 8 && left >= 8 && left != 9 && left != 10 && left != 12)
        return 8;
    if (most >= 6 && left >= 6 && left != 7 && (left != 8 || most == 8))
        return 6;
    return left >= 4 && left != 5 ? 4 : left >= 3 ? 3 : left;
}

/* `count` tiles side by side: where the first starts, and how many lanes of a last vector count. copy and
   packed are for the usual tile alone. */
typedef struct cnn__tile {
    float *copy; /* besides, x's steps go here, CNN__GATHER apart, and those `ahead` are fetched; or NULL */
    int ahead;
    int packed; /* x's steps lie CNN__GATHER apart, w's panels have no rows but the tile's */
    const float *x, *w, *bias;
    const int *tap;
    int count, steps, last;
    ptrdiff_t panel, wk;
    float *y;
    ptrdiff_t ym;
    cnn__start start;
} cnn__tile;

/* g[m*gm + k*gk] += sum over r < lines, p < n of y[m*ym + r*yr + p] * x[tap[k] + r*xr + p], m < rows,
   k < steps. Where lanes is not NULL, vector m*steps + k of it += that sum lane by lane instead, to be folded
   into a gradient when more has been added. */
typedef struct cnn__dot {
    int rows, steps, lines;
    size_t n;
    const int *tap;
    const float *x, *y;
    ptrdiff_t xr, yr, ym;
    float *g, *lanes;
    ptrdiff_t gm, gk;
} cnn__dot;

/* With outputs as lanes, for images too narrow to fill vectors:
     y[i*yr + m*CNN__LANES + o] = bias[o] + sum over k of x[tap[k] + i*xr + m] * w[k*CNN__LANES + o],
   i < lines, m < n, o < CNN__LANES; or, where bias is NULL, += the sum. Each sum runs over k in order. x may
   be read, and y written, as far as CNN__BEYOND positions after the last of a line. Instances whose vectors
   have CNN__LANES lanes also take two or four panels at a time: further CNN__LANES outputs at w + wp, bias +
   CNN__LANES and y + yp, and so on. */
typedef struct cnn__pixels {
    int lines, n, steps, panels;
    const int *tap;
    const float *x, *w, *bias;
    ptrdiff_t xr, yr, wp, yp;
    float *y;
} cnn__pixels;

/* A stretch of a depthwise kernel's column: `rows` elements w[at[e]] that see packed rows x + tap + e*xr. */
typedef struct cnn__stretch {
    int tap, rows, at[CNN__TALL];
} cnn__stretch;

/* y[i*yr + p] = bias + sum over the stretches k, and e < rows of each, of
     w[CNN__TALL*k + e] * x[tap + (i + e)*xr + p],   i < lines, p < n.
   x may be read on to the end of the last vector and to a multiple of CNN__BAND lines.
   Or, for dw, vector CNN__TALL*k + e of lanes += y[i*yr + p] * x[same], lane by lane, for stretch k. */
typedef struct cnn__depthwise {
    int lines, n, stretches;
    const cnn__stretch *stretch;
    const float *x, *w;
    float bias;
    float *y;
    ptrdiff_t xr, yr;
    const float *dy;
    float *lanes;
} cnn__depthwise;

/* A pooling of c images of h*w cells to oh*ow cells. */
typedef struct cnn__pool {
    int max;
    int h, w, oh, ow, kh, kw, sh, sw, ph, pw, dh, dw, exclude_padding;
    int tiled;  /* windows side by side, no padding, all of them whole */
    int covers; /* and no element left over */
} cnn__pool;

/* The part of window i (along one axis, of size n) that lies on the image: elements first, first + step, ...
   below end. `counted` is its extent for the average, padding included (PyTorch's rule: clipped to the padded
   image, then to the image where padding is excluded). */
typedef struct cnn__window {
    int first, end, counted;
} cnn__window;

CNN__BOTH CNN__INLINE cnn__window cnn__window_at(int i, int n, int kernel, int stride, int pad, int dilation,
                                                 int exclude) {
    cnn__window v;
    const int start = i * stride - pad, stop = start + (kernel - 1) * dilation + 1;
    const int padded_stop = stop < n + pad ? stop : n + pad;
    v.first = start < 0 ? start + (-start + dilation - 1) / dilation * dilation : start;
    v.end = stop < n ? stop : n;
    v.counted = exclude ? v.end - v.first : padded_stop - start;
    return v;
}

typedef void (*cnn__unary_kernel)(const float *x, float *y, size_t n);
typedef void (*cnn__binary_kernel)(const float *y, const float *dy, float *dx, size_t n);

/* One instruction set's kernels. */
typedef struct cnn__kernels {
    const char *name;
    int lanes, bits;            /* of a vector, and their logarithm */
    int panel, wide;            /* rows, and vectors, of the usual tile, which has the most rows */
    const unsigned char *sizes; /* the vectors that tiles of so many rows have, as bits */
    void (*wino_input)(const float *x, const ptrdiff_t *row, const ptrdiff_t *column, float *to,
                       size_t pitch);
    void (*wino_weight)(const float *g, const ptrdiff_t *at, int period, ptrdiff_t next, int n, int flip,
                        float *to, size_t pitch);
    void (*wino_tiles)(const float *x, size_t row, const ptrdiff_t *at, int whole, float *to, size_t pitch);
    void (*wino_output)(const float *m, size_t pitch, float bias, float *const *to, const size_t *row);
    void (*wino_cells)(const float *m, size_t pitch, const float *bias, int rows, int columns, float *to,
                       size_t to_pitch);
    void (*wino_gradient)(const float *dy, const ptrdiff_t *row, const ptrdiff_t *column, float *to,
                          size_t pitch);
    void (*wino_kernel)(const float *m, size_t pitch, float *to);
    void (*tile)(const cnn__tile *a, int mr, int nv);
    void (*gather)(const cnn__product *a, int v0, int v1, int k0, int k1, int last, float *x); /* or NULL */
    void (*dot)(const cnn__dot *a);
    void (*pixels)(const cnn__pixels *a);
    void (*matrix_vector)(const float *w, const float *x, const float *bias, float *y, int rows, int n);
    void (*depthwise)(const cnn__depthwise *a);
    void (*depthwise_dot)(const cnn__depthwise *a);
    void (*fold)(const float *lanes, float *g, size_t n);
    void (*copy)(const float *from, size_t from_pitch, float *to, size_t to_pitch, size_t n, int rows);
    void (*every)(const float *x, size_t x_pitch, int step, float *y, size_t y_pitch, size_t n, int rows);
    float (*sum)(const float *x, size_t n);
    void (*add)(float *y, const float *x, size_t n);
    cnn__unary_kernel sigmoid, tanh, relu;
    cnn__binary_kernel sigmoid_backward, tanh_backward, relu_backward;
    void (*softmax)(const float *x, float *y, float *max, float *sum, int c, size_t n, int samples);
    void (*softmax_backward)(const float *y, const float *dy, float *dx, int c, size_t n, int samples);
    void (*maxpool)(const cnn__pool *p, const float *x, float *y, int *indices, int c, int cell);
    void (*maxpool_backward)(const cnn__pool *p, const float *x, const float *y, const float *dy, float *dx,
                             int c, int cell);
    void (*avgpool)(const cnn__pool *p, const float *x, float *y, int c, int cell);
    void (*avgpool_backward)(const cnn__pool *p, const float *dy, float *dx, int c, int cell);
    /* Of a block's average pool over windows of 2x2 that cover its input, and of the activation before, whose
       result is y: both gradients in one go. */
    void (*pooled_backward)(const cnn__pool *p, cnn_layer_kind activation, const float *y, const float *dy,
                            float *dx, int c);
    void (*sgd)(const cnn_sgd_options *o, float *p, const float *g, float *v, size_t n);
    void (*from_bytes)(const unsigned char *bytes, float *y, size_t n); /* n a multiple of CNN__LANES */
} cnn__kernels;

#endif /* CNN_IMPLEMENTATION, first part */

/* ---- >>kernels ---------------------------------------------------------------------------------------

   Written once; the header includes itself to instantiate them for each instruction set (see >>dispatch),
   which defines the vector type CNN__VEC of CNN__V floats, CNN__REGISTERS of them, and these operations:
     LOAD(p) STORE(p, v)           unaligned;  LOAD_N(p, n) STORE_N(p, v, n): the first n < V lanes, rest 0
     LOAD_MASKED(p, mask)          the same for n <= V, with a MASK made by LANE_MASK(n)
     SET1(f) FMA(a, b, c) SUM(v)   a*b + c;  the sum of the lanes
     ADD_PRODUCT(sum, a, b)        sum = FMA(a, b, sum); defined where GCC, left to itself, moves the sums of
                                   two steps from register to register, or loads b for each sum anew
     MAX(a, b) MIN(a, b)           b where either is NaN;  MAX_NAN(a, b): NaN where either is
     IF_ABOVE(a, b, v)             v where a > b or either is NaN, else 0
     SCALE(v, t)                   v times 2^i, i being the low bits of t's representation
     ROUNDED(v)                    v as a float, where the processor may hold more; elsewhere undefined
     RECIPROCAL(v)                 1/v for 1 <= v < 2^127, to 1 ulp
     LOAD_BYTES(p)                 V bytes as floats
     EVEN(a, b) ODD(a, b)          the even or odd lanes of a, then those of b
     ZIP_LOW(a, b) ZIP_HIGH(a, b)  lanes of a and b in turn: the first or the last V of these 2V
     QUADS(p, at)                  four floats each at p + at[0], p + at[4], ...
     QUADS_LOW(a, b) QUADS_HIGH(a, b)   as ZIP_LOW and ZIP_HIGH, of four lanes each
   and + - * / on vectors.

   To keep compiling short: CNN__LENDER names the instance whose softmax and pooling this one uses, where it has
   none of its own, these being bound by memory. CNN__LEAN marks one that few run, for old processors or of
   single floats: it has few tiles, no gathering and no Winograd. Beside vectors, single floats have nothing
   but softmax and pooling. */

#ifdef CNN__INSTANCE
CNN__OPTIMIZE_KERNELS
#ifndef CNN__LEAN
#define CNN__LEAN 0
#endif
#ifdef CNN__LENDER
#define CNN__BORROWED(name) CNN__JOIN(name, CNN__LENDER)
#else
#define CNN__BORROWED(name) CNN__FN(name)
#endif
#define CNN__BITS (CNN__V == 16 ? 4 : CNN__V == 8 ? 3 : CNN__V == 4 ? 2 : 0)
#if CNN__LEAN
#define CNN__UNLESS_LEAN(name) NULL
#else
#define CNN__UNLESS_LEAN(name) CNN__FN(name)
#endif
#if CNN__V > 1 || !CNN__VECTORS
#define CNN__WHOLE     1
#define CNN__OWN(name) CNN__FN(name)
#else
#define CNN__WHOLE     0
#define CNN__OWN(name) NULL
#endif
#define CNN__JOIN_(a, b) a##_##b
#define CNN__JOIN(a, b)  CNN__JOIN_(a, b)
#define CNN__FN(name)    CNN__JOIN(name, CNN__INSTANCE)

#ifndef CNN__ROUNDED
#define CNN__ROUNDED(v) (v)
#endif
#ifndef CNN__ADD_PRODUCT
#define CNN__ADD_PRODUCT(sum, a, b) ((sum) = CNN__FMA(a, b, sum))
#endif

/* Vectors of which n lanes count: where masks cost nothing (CNN__FREE_MASKS) always by them, elsewhere only
   where n < V. Loops make theirs beforehand: LANE_MASK(n) for LOAD_MASKED. */
#ifdef CNN__FREE_MASKS
#define CNN__LOAD_UP_TO(p, n)     CNN__LOAD_N(p, n)
#define CNN__STORE_UP_TO(p, v, n) CNN__STORE_N(p, v, n)
#else
#define CNN__FREE_MASKS       0
#define CNN__LOAD_UP_TO(p, n) ((n) == CNN__V ? CNN__LOAD(p) : CNN__LOAD_N(p, n))
#define CNN__STORE_UP_TO(p, v, n)                                                                            \
    do {                                                                                                     \
        if ((n) == CNN__V)                                                                                   \
            CNN__STORE(p, v);                                                                                \
        else                                                                                                 \
            CNN__STORE_N(p, v, n);                                                                           \
    } while (0)
#endif

/* n <= V elements of a row, every one or, for step 2, every other. */
CNN__MAYBE static CNN__VEC CNN__FN(cnn__strided)(const float *x, int step, int n) {
    const int span = (n - 1) * step + 1;
    const CNN__VEC u = CNN__LOAD_UP_TO(x, span < CNN__V ? span : CNN__V);
    if (step == 1)
        return u;
    return CNN__EVEN(u, span > CNN__V ? CNN__LOAD_UP_TO(x + CNN__V, span - CNN__V) : u);
}

/* The sums, or the maxima, of neighbouring lanes of 2*n vectors, in n. */
CNN__INLINE void CNN__FN(cnn__halve)(CNN__VEC *v, const int n, const int max) {
    CNN__UNROLL
    for (int i = 0; i < n; i++) {
        const CNN__VEC a = CNN__EVEN(v[2 * i], v[2 * i + 1]), b = CNN__ODD(v[2 * i], v[2 * i + 1]);
        if (max)
            v[i] = CNN__MAX_NAN(a, b);
        else
            v[i] = a + b;
    }
}

CNN__INLINE CNN__VEC CNN__FN(cnn__across)(CNN__VEC *v, const int max) {
    if (CNN__V >= 16)
        CNN__FN(cnn__halve)(v, 8, max);
    if (CNN__V >= 8)
        CNN__FN(cnn__halve)(v, 4, max);
    if (CNN__V >= 4) {
        CNN__FN(cnn__halve)(v, 2, max);
        CNN__FN(cnn__halve)(v, 1, max);
    }
    return v[0];
}

/* Lane i of the result: the sum, or the maximum, of the lanes of v[i], i < V. They spoil v. */
CNN__MAYBE CNN__OUTLINE static CNN__VEC CNN__FN(cnn__sums)(CNN__VEC *v) {
    return CNN__FN(cnn__across)(v, 0);
}

CNN__MAYBE CNN__OUTLINE static CNN__VEC CNN__FN(cnn__maxima)(CNN__VEC *v) {
    return CNN__FN(cnn__across)(v, 1);
}

/* exp(sign * x), sign 1 or -1, for sign*x in [-87.3, 88.3], clamped beyond; NaN stays. 2^i * exp(r), r = x -
   i ln 2, |r| <= ln 2 / 2; ln 2 in two parts, so that r is exact to the last bit but one; the polynomial of
   degree 5 that is 1 at 0 and has the least relative error, 9.2e-8. With its roundings sigmoid, tanh and,
   where x - max is exact, softmax over two are right to 4 units in the last place (3.6 seen, in
   tests/test_operators). */
CNN__INLINE CNN__VEC CNN__FN(cnn__exp)(CNN__VEC x, const float sign) {
    x = CNN__MIN(CNN__SET1(sign > 0 ? 88.3f : 87.3f), CNN__MAX(CNN__SET1(sign > 0 ? -87.3f : -88.3f), x));
    const CNN__VEC magic = CNN__SET1(12582912.0f); /* 1.5 * 2^23: adding it rounds to an integer */
    const CNN__VEC t = CNN__ROUNDED(CNN__FMA(x, CNN__SET1(sign * 1.44269504f), magic));
    const CNN__VEC i = t - magic;
    CNN__VEC r = CNN__FMA(i, CNN__SET1(sign * -0.693359375f), x); /* sign*r */
    r = CNN__FMA(i, CNN__SET1(sign * 2.12194440e-4f), r);
    CNN__VEC p = CNN__FMA(r, CNN__SET1(sign * 0.00829030667f), CNN__SET1(0.0418979749f));
    p = CNN__FMA(p, r, CNN__SET1(sign * 0.166676372f));
    p = CNN__FMA(p, r, CNN__SET1(0.499991506f));
    p = CNN__FMA(p, r, CNN__SET1(sign * 0.999999702f));
    p = CNN__FMA(p, r, CNN__SET1(1.0f));
    return CNN__SCALE(p, t);
}

/* The tiles there are: those that fit the registers (MR*NV accumulators, NV inputs, one weight) and that
   sizes are well made up from. */
/* clang-format off */
#if CNN__REGISTERS >= 32
#define CNN__PANEL 8 /* rows, and vectors, of the usual tile */
#define CNN__WIDE  3
#define CNN__TILES(T)                                                                                        \
    T(1, 1) T(1, 2) T(1, 6)                                                                                  \
    T(2, 1) T(2, 2) T(2, 6)                                                                                  \
    T(3, 1) T(3, 2) T(3, 6)                                                                                  \
    T(4, 1) T(4, 2) T(4, 3) T(4, 6)                                                                          \
    T(6, 1) T(6, 2) T(6, 4)                                                                                  \
    T(8, 1) T(8, 2) T(8, 3)
#define CNN__TILE_SIZES {0, 0x46, 0x46, 0x46, 0x4e, 0, 0x16, 0, 0xe} /* NV for each MR, as bits */
#elif CNN__LEAN
#define CNN__PANEL 4
#define CNN__WIDE  2
#define CNN__TILES(T) T(1, 1) T(2, 1) T(3, 1) T(4, 1) T(4, 2)
#define CNN__TILE_SIZES {0, 0x2, 0x2, 0x2, 0x6}
#else
#define CNN__PANEL 6
#define CNN__WIDE  2
#define CNN__TILES(T)                                                                                        \
    T(1, 1) T(1, 4)                                                                                          \
    T(2, 1) T(2, 4)                                                                                          \
    T(3, 1) T(3, 2) T(3, 3)                                                                                  \
    T(4, 1) T(4, 2) T(4, 3)                                                                                  \
    T(6, 1) T(6, 2)
#define CNN__TILE_SIZES {0, 0x12, 0x12, 0xe, 0xe, 0, 0x6}
#endif
/* clang-format on */

#if CNN__WHOLE

/* A step of a tile. */
CNN__INLINE void CNN__FN(cnn__tile_step)(const float *x, const float **w, ptrdiff_t wk, const CNN__MASK mask,
                                         CNN__VEC (*acc)[8], const int MR, const int NV, const int panels,
                                         const int copying, float *copy) {
    CNN__VEC v[8];
    CNN__UNROLL
    for (int j = 0; j < NV; j++) {
        v[j] = NV > 1 ? CNN__LOAD(x + j * CNN__V) : CNN__LOAD_MASKED(x, mask);
        if (copying)
            CNN__STORE(copy + j * CNN__V, v[j]);
    }
    CNN__UNROLL
    for (int q = 0; q < panels; q++) {
        CNN__UNROLL
        for (int m = 0; m < MR; m++) {
            const CNN__VEC b = CNN__SET1(w[q][m]);
            CNN__UNROLL
            for (int j = 0; j < NV; j++)
                if (NV > 1)
                    CNN__ADD_PRODUCT(acc[q * MR + m][j], b, v[j]);
                else /* may broadcast by itself */
                    acc[q * MR + m][j] = CNN__FMA(b, v[j], acc[q * MR + m][j]);
        }
        w[q] += wk;
    }
}

/* A tile of `panels` panels of MR rows, and NV vectors of a product: all accumulators in registers; for each
   step NV loads, a broadcast a row, a fused multiply-add an accumulator, and as little else as can be: the
   weights are reached by constant distances from one pointer a panel. Where a neighbour on the same core
   takes half of the instruction slots, it is the number of instructions that decides the speed. Hence two
   steps at a time in the usual tile, or four where x is `packed`, its steps CNN__GATHER apart, and w in panels
   by steps. MR, NV, panels, packed and copying are constants after inlining. */
CNN__INLINE void CNN__FN(cnn__tile)(const cnn__tile *a, const int MR, const int NV, const int panels,
                                    const int packed, const int copying) {
    const float *CNN__RESTRICT x = a->x;
    float *y = a->y;
    const int *CNN__RESTRICT tap = a->tap;
    const ptrdiff_t ym = a->ym, wk = a->wk && !packed ? a->wk : MR;
    const int last = a->last, steps = a->steps;
    const CNN__MASK mask = CNN__LANE_MASK(last); /* made once */
    const int pairs = MR == CNN__PANEL && NV == CNN__WIDE && !packed && !copying;
    float *CNN__RESTRICT copy = a->copy;
    const ptrdiff_t ahead = a->ahead;
    for (int count = a->count; count > 0; count--, x += NV * CNN__V, y += NV * CNN__V) {
        CNN__VEC acc[24][8];
        const float *w[3];
        CNN__UNROLL
        for (int q = 0; q < panels; q++)
            w[q] = a->w + q * MR * a->panel;
        float *row = y;
        if (a->start == CNN__ACCUMULATE) {
            CNN__UNROLL
            for (int m = 0; m < panels * MR; m++) {
                CNN__UNROLL
                for (int j = 0; j < NV; j++)
                    acc[m][j] =
                        j < NV - 1 ? CNN__LOAD(row + j * CNN__V) : CNN__LOAD_UP_TO(row + j * CNN__V, last);
                row += ym;
                CNN__OPAQUE(row);
            }
        } else {
            CNN__UNROLL
            for (int m = 0; m < panels * MR; m++) {
                const CNN__VEC b = CNN__SET1(a->start == CNN__BIAS ? a->bias[m] : 0.0f);
                CNN__UNROLL
                for (int j = 0; j < NV; j++)
                    acc[m][j] = b;
            }
        }
        int k = 0;
        for (; packed && k + 4 <= steps; k += 4) {
            CNN__UNROLL
            for (int i = 0; i < 4; i++)
                CNN__FN(cnn__tile_step)
            (x + (k + i) * CNN__GATHER, w, wk, mask, acc, MR, NV, panels, 0, NULL);
        }
        for (; pairs && k + 2 <= steps; k += 2) {
            CNN__FN(cnn__tile_step)(x + tap[k], w, wk, mask, acc, MR, NV, panels, 0, NULL);
            CNN__FN(cnn__tile_step)(x + tap[k + 1], w, wk, mask, acc, MR, NV, panels, 0, NULL);
        }
        for (; k < steps; k++) {
            if (copying) {
                CNN__UNROLL
                for (int j = 0; j < NV * CNN__V; j += 16) /* a cache line */
                    CNN__PREFETCH(x + tap[k] + ahead + j);
            }
            CNN__FN(cnn__tile_step)(x + tap[k], w, wk, mask, acc, MR, NV, panels, copying, copy);
            if (copying)
                copy += CNN__GATHER;
        }
        row = y;
        CNN__UNROLL
        for (int m = 0; m < panels * MR; m++) {
            CNN__UNROLL
            for (int j = 0; j < NV; j++)
                if (j < NV - 1)
                    CNN__STORE(row + j * CNN__V, acc[m][j]);
                else
                    CNN__STORE_UP_TO(row + j * CNN__V, acc[m][j], last);
            row += ym;
            CNN__OPAQUE(row);
        }
    }
}

#define CNN__TILE(MR, NV)                                                                                    \
    CNN__THOROUGH static void CNN__FN(cnn__tile_##MR##x##NV)(const cnn__tile *a) {                           \
        CNN__FN(cnn__tile)(a, MR, NV, 1, 0, 0);                                                              \
    }
CNN__TILES(CNN__TILE)
#undef CNN__TILE
#if CNN__PANEL == 8
CNN__THOROUGH static void CNN__FN(cnn__tile_24x1)(const cnn__tile *a) {
    CNN__FN(cnn__tile)(a, 8, 1, 3, 0, 0);
}
#endif

#if !CNN__LEAN
CNN__THOROUGH static void CNN__FN(cnn__tile_packed)(const cnn__tile *a) {
    CNN__FN(cnn__tile)(a, CNN__PANEL, CNN__WIDE, 1, 1, 0);
}

CNN__THOROUGH static void CNN__FN(cnn__tile_copy)(const cnn__tile *a) {
    CNN__FN(cnn__tile)(a, CNN__PANEL, CNN__WIDE, 1, 0, 1);
}
#endif

static void CNN__FN(cnn__tile_call)(const cnn__tile *a, int mr, int nv) {
#if !CNN__LEAN
    if (mr == CNN__PANEL && nv == CNN__WIDE && a->copy) {
        CNN__FN(cnn__tile_copy)(a);
        return;
    }
    if (mr == CNN__PANEL && nv == CNN__WIDE && a->packed) {
        CNN__FN(cnn__tile_packed)(a);
        return;
    }
#endif
    switch (mr * 16 + nv) {
#define CNN__TILE(MR, NV)                                                                                    \
    case MR * 16 + NV:                                                                                       \
        CNN__FN(cnn__tile_##MR##x##NV)(a);                                                                   \
        return;
        CNN__TILES(CNN__TILE)
#undef CNN__TILE
#if CNN__PANEL == 8
    case 24 * 16 + 1:
        CNN__FN(cnn__tile_24x1)(a);
#endif
    }
}

#if !CNN__LEAN
/* Vectors of columns v0 to v1 - 1, steps k0 to k1 - 1 of x, those of a step together, one step after the
   other, CNN__GATHER apart; of the last vector `last` lanes. */
static void CNN__FN(cnn__gather)(const cnn__product *a, int v0, int v1, int k0, int k1, int last, float *x) {
    const CNN__MASK mask = CNN__LANE_MASK(last);
    for (int k = k0; k < k1; k++, x += CNN__GATHER) {
        const float *from = a->x + a->tap[k - a->first] + v0 * CNN__V;
        float *to = x;
        for (int v = v0; v < v1 - 1; v++, from += CNN__V, to += CNN__V)
            CNN__STORE(to, CNN__LOAD(from));
        CNN__STORE(to, CNN__LOAD_MASKED(from, mask));
    }
}
#endif

/* A tile of MR rows and NK steps of a dot: MR*NK accumulators; for each vector of positions MR + NK loads and
   MR*NK fused multiply-adds; the lanes are summed at the end. */
CNN__INLINE void CNN__FN(cnn__dot_tile)(const cnn__dot *a, int m0, int k0, const int MR, const int NK) {
    CNN__VEC acc[4][6];
    const float *x[6];
    float own[4 * 6 * CNN__V]; /* the lanes, unless the caller wants them */
    float *const lanes = a->lanes ? a->lanes + ((ptrdiff_t)m0 * a->steps + k0) * CNN__V : own;
    const int pitch = a->lanes ? a->steps : NK;
    CNN__UNROLL
    for (int m = 0; m < MR; m++) {
        CNN__UNROLL
        for (int k = 0; k < NK; k++)
            acc[m][k] = a->lanes ? CNN__LOAD(lanes + (m * pitch + k) * CNN__V) : CNN__SET1(0.0f);
    }
    CNN__UNROLL
    for (int k = 0; k < NK; k++)
        x[k] = a->x + a->tap[k0 + k];
    const float *y = a->y + m0 * a->ym;
    const ptrdiff_t ym = a->ym;
    const size_t whole = a->n / CNN__V * CNN__V;
    const int rest = (int)(a->n - whole);
    const CNN__MASK mask = CNN__LANE_MASK(rest);
    for (int r = 0; r < a->lines; r++) {
        for (size_t p = 0; p < whole; p += CNN__V) {
            CNN__VEC v[4];
            CNN__UNROLL
            for (int m = 0; m < MR; m++)
                v[m] = CNN__LOAD(y + m * ym + p);
            CNN__UNROLL
            for (int k = 0; k < NK; k++) {
                const CNN__VEC b = CNN__LOAD(x[k] + p);
                CNN__UNROLL
                for (int m = 0; m < MR; m++)
                    CNN__ADD_PRODUCT(acc[m][k], v[m], b); /* b is loaded once, not MR times */
            }
        }
        if (rest) {
            CNN__VEC v[4];
            CNN__UNROLL
            for (int m = 0; m < MR; m++)
                v[m] = CNN__LOAD_MASKED(y + m * ym + whole, mask);
            CNN__UNROLL
            for (int k = 0; k < NK; k++) {
                const CNN__VEC b = CNN__LOAD_MASKED(x[k] + whole, mask);
                CNN__UNROLL
                for (int m = 0; m < MR; m++)
                    acc[m][k] = CNN__FMA(v[m], b, acc[m][k]);
            }
        }
        y += a->yr;
        CNN__UNROLL
        for (int k = 0; k < NK; k++)
            x[k] += a->xr;
    }
    CNN__UNROLL
    for (int m = 0; m < MR; m++) {
        CNN__UNROLL
        for (int k = 0; k < NK; k++)
            CNN__STORE(lanes + (m * pitch + k) * CNN__V, acc[m][k]);
    }
    float *g = a->g + m0 * a->gm + k0 * a->gk;
    for (int m = 0; !a->lanes && m < MR; m++, g += a->gm)
        for (int k = 0; k < NK; k++)
            g[k * a->gk] += CNN__SUM(CNN__LOAD(own + (m * NK + k) * CNN__V));
}

/* clang-format off */
#if CNN__REGISTERS >= 32
#define CNN__DOT_TILES(T)                                                                                    \
    T(1, 1) T(1, 6) T(3, 1) T(3, 3) T(3, 5) T(3, 6) T(4, 5)
#elif CNN__LEAN
#define CNN__DOT_TILES(T) T(1, 1) T(3, 1) T(3, 4)
#else
#define CNN__DOT_TILES(T) T(1, 1) T(1, 2) T(1, 4) T(3, 1) T(3, 2) T(3, 4)
#endif
/* clang-format on */
#define CNN__TILE(MR, NK)                                                                                    \
    CNN__THOROUGH static void CNN__FN(cnn__dot_##MR##x##NK)(const cnn__dot *a, int m0, int k0) {             \
        CNN__FN(cnn__dot_tile)(a, m0, k0, MR, NK);                                                           \
    }
CNN__DOT_TILES(CNN__TILE)
#undef CNN__TILE

/* Rows of the next tile out of `left`, and its steps. */
CNN__INLINE int CNN__FN(cnn__dot_rows)(int left, int steps) {
    if (CNN__REGISTERS >= 32 && steps % 5 == 0 && left >= 4 && left != 6)
        return 4;
    return left >= 3 ? 3 : 1;
}

CNN__INLINE int CNN__FN(cnn__dot_steps)(int rows, int left) {
#if CNN__REGISTERS >= 32
    if (rows == 4 || (rows == 3 && (left == 5 || (left % 5 == 0 && left < 30))))
        return 5;
    return left >= 6 ? 6 : left >= 3 && rows > 1 ? 3 : 1;
#elif CNN__LEAN
    return left >= 4 && rows == 3 ? 4 : 1;
#else
    (void)rows;
    return left >= 4 ? 4 : left >= 2 ? 2 : 1;
#endif
}

static void CNN__FN(cnn__dot_run)(const cnn__dot *a) {
    for (int m = 0, mr = 0; m < a->rows; m += mr) {
        mr = CNN__FN(cnn__dot_rows)(a->rows - m, a->steps);
        for (int k = 0, nk = 0; k < a->steps; k += nk) {
            nk = CNN__FN(cnn__dot_steps)(mr, a->steps - k);
            switch (mr * 16 + nk) {
#define CNN__TILE(MR, NK)                                                                                    \
    case MR * 16 + NK:                                                                                       \
        CNN__FN(cnn__dot_##MR##x##NK)(a, m, k);                                                              \
        break;
                CNN__DOT_TILES(CNN__TILE)
#undef CNN__TILE
            }
        }
    }
}

/* Positions of a tile with outputs as lanes, and most vectors of outputs. */
#if CNN__V == 16
#define CNN__PIXELS_LEAST   4
#define CNN__PIXELS_SOME    6
#define CNN__PIXELS_MOST    10
#define CNN__PIXELS_VECTORS 4 /* 10 loads for 24 multiply-adds; two vectors have 12 for 20, one 11 for 10 */
#elif CNN__V == 8 || (CNN__V == 4 && CNN__REGISTERS >= 32)
#define CNN__PIXELS_LEAST 4
#define CNN__PIXELS_SOME  6
#define CNN__PIXELS_MOST  6
#else
#define CNN__PIXELS_LEAST (CNN__V == 1 ? 1 : 2)
#define CNN__PIXELS_SOME  CNN__PIXELS_LEAST
#define CNN__PIXELS_MOST  CNN__PIXELS_LEAST
#endif
#ifndef CNN__PIXELS_VECTORS
#define CNN__PIXELS_VECTORS (CNN__LANES / CNN__V)
#endif

/* NV vectors of outputs, wp apart in w, for MR positions. */
CNN__INLINE void CNN__FN(cnn__pixels_step)(const float *x, const float *w, ptrdiff_t wp,
                                           CNN__VEC (*acc)[CNN__PIXELS_VECTORS], const int MR, const int NV) {
    CNN__VEC v[CNN__PIXELS_VECTORS];
    CNN__UNROLL
    for (int j = 0; j < NV; j++)
        v[j] = CNN__LOAD(w + j * wp);
    CNN__UNROLL
    for (int m = 0; m < MR; m++) {
        const CNN__VEC b = CNN__SET1(x[m]);
        CNN__UNROLL
        for (int j = 0; j < NV; j++)
            if (NV > 1)
                CNN__ADD_PRODUCT(acc[m][j], b, v[j]);
            else /* may broadcast by itself */
                acc[m][j] = CNN__FMA(b, v[j], acc[m][j]);
    }
}

/* Two steps of one vector, whose pixels lie side by side: what is loaded serves both, 13 loads for 20
   multiply-adds where one step at a time takes 22. */
CNN__INLINE void CNN__FN(cnn__pixels_pair)(const float *x, const float *w,
                                           CNN__VEC (*acc)[CNN__PIXELS_VECTORS], const int MR) {
    const CNN__VEC first = CNN__LOAD(w), second = CNN__LOAD(w + CNN__LANES);
    acc[0][0] = CNN__FMA(CNN__SET1(x[0]), first, acc[0][0]);
    CNN__UNROLL
    for (int m = 1; m < MR; m++) {
        const CNN__VEC b = CNN__SET1(x[m]);
        CNN__ADD_PRODUCT(acc[m - 1][0], b, second);
        CNN__ADD_PRODUCT(acc[m][0], b, first);
    }
    acc[MR - 1][0] = CNN__FMA(CNN__SET1(x[MR]), second, acc[MR - 1][0]);
}

/* A tile of MR positions, as cnn__tile with its roles exchanged; some steps at a time. */
CNN__INLINE void CNN__FN(cnn__pixels_tile)(const cnn__pixels *a, const float *x, float *y, const int MR,
                                           const int NV) {
    const int STEPS = CNN__LEAN ? 1 : CNN__V < 16 ? 4 : 1, PAIRS = CNN__V == 16 && NV == 1;
    const ptrdiff_t wp = CNN__V == CNN__LANES ? a->wp : CNN__V, yp = CNN__V == CNN__LANES ? a->yp : CNN__V;
    CNN__VEC acc[CNN__BEYOND][CNN__PIXELS_VECTORS];
    const int *CNN__RESTRICT tap = a->tap;
    const float *CNN__RESTRICT w = a->w;
    const int steps = a->steps;
    int k = 0;
    CNN__UNROLL
    for (int m = 0; m < MR; m++) {
        CNN__UNROLL
        for (int j = 0; j < NV; j++)
            acc[m][j] = CNN__LOAD(a->bias ? a->bias + j * CNN__V : y + m * CNN__LANES + j * yp);
    }
    for (; !PAIRS && k + STEPS <= steps; k += STEPS, w += STEPS * CNN__LANES) {
        CNN__UNROLL
        for (int i = 0; i < STEPS; i++)
            CNN__FN(cnn__pixels_step)(x + tap[k + i], w + i * CNN__LANES, wp, acc, MR, NV);
    }
    for (int some = 1; k < steps; k += some, w += some * CNN__LANES) {
        some = PAIRS && k + 1 < steps && tap[k + 1] == tap[k] + 1 ? 2 : 1;
        if (some == 2)
            CNN__FN(cnn__pixels_pair)(x + tap[k], w, acc, MR);
        else
            CNN__FN(cnn__pixels_step)(x + tap[k], w, wp, acc, MR, NV);
    }
    CNN__UNROLL
    for (int m = 0; m < MR; m++) {
        CNN__UNROLL
        for (int j = 0; j < NV; j++)
            CNN__STORE(y + m * CNN__LANES + j * yp, acc[m][j]);
    }
}

/* A tile may go beyond the end of its line; where lines follow closely, the next one's tiles put that right.
   Several panels do with two sizes of tiles, to keep compiling short. */
CNN__INLINE void CNN__FN(cnn__pixels_lines)(const cnn__pixels *a, const int NV, const int MOST) {
    const int some = NV * CNN__V <= CNN__LANES || MOST == CNN__PIXELS_SOME;
    for (int i = 0; i < a->lines; i++) {
        const float *x = a->x + i * a->xr;
        float *y = a->y + i * a->yr;
        for (int left = a->n, mr = 0; left > 0; left -= mr, x += mr, y += mr * CNN__LANES) {
            mr = left > 2 * CNN__PIXELS_LEAST ? MOST /* two of the least rather than waste more */
                 : left > CNN__PIXELS_LEAST && left <= CNN__PIXELS_SOME && some ? CNN__PIXELS_SOME
                                                                                : CNN__PIXELS_LEAST;
            if (mr == MOST)
                CNN__FN(cnn__pixels_tile)(a, x, y, MOST, NV);
            else if (mr == CNN__PIXELS_SOME && some)
                CNN__FN(cnn__pixels_tile)(a, x, y, CNN__PIXELS_SOME, NV);
            else
                CNN__FN(cnn__pixels_tile)(a, x, y, CNN__PIXELS_LEAST, NV);
        }
    }
}

static void CNN__FN(cnn__pixels)(const cnn__pixels *a) {
#if CNN__PIXELS_VECTORS > CNN__LANES / CNN__V
    if (a->panels > 1) {
        if (a->panels == 2)
            CNN__FN(cnn__pixels_lines)(a, 2, CNN__PIXELS_MOST);
        else
            CNN__FN(cnn__pixels_lines)(a, 4, CNN__PIXELS_SOME);
        return;
    }
#endif
    CNN__FN(cnn__pixels_lines)(a, CNN__LANES / CNN__V, CNN__PIXELS_MOST);
}

/* A stretch of ROWS rows for a vector of all of a band's lines: what is loaded serves ROWS of them. */
CNN__INLINE void CNN__FN(cnn__depthwise_stretch)(const float *x, ptrdiff_t xr, const float *w, CNN__VEC *acc,
                                                 const int ROWS) {
    CNN__VEC b[CNN__TALL];
    CNN__UNROLL
    for (int e = 0; e < ROWS; e++)
        b[e] = CNN__SET1(w[e]);
    CNN__UNROLL
    for (int i = 0; i < CNN__BAND + ROWS - 1; i++) {
        if (i % 4 == 0) { /* opaque, or GCC joins what stretches of 1, 2 and 3 rows begin with, and spills */
            x += i > 0 ? 4 * xr : 0;
            CNN__OPAQUE(x);
        }
        const CNN__VEC v = CNN__LOAD(x + i % 4 * xr);
        CNN__UNROLL
        for (int e = 0; e < ROWS; e++)
            if (i >= e && i - e < CNN__BAND)
                CNN__ADD_PRODUCT(acc[i - e], b[e], v);
    }
}

/* A tile: a band of lines, one vector of which n lanes count. */
CNN__INLINE void CNN__FN(cnn__depthwise_tile)(const cnn__depthwise *a, const float *x, float *y, int lines,
                                              int n) {
    const cnn__stretch *s = a->stretch, *const end = s + a->stretches;
    const ptrdiff_t xr = a->xr, yr = a->yr;
    const float *w = a->w;
    CNN__VEC acc[CNN__BAND];
    CNN__UNROLL
    for (int i = 0; i < CNN__BAND; i++)
        acc[i] = CNN__SET1(a->bias);
    for (; s < end; s++, w += CNN__TALL)
        if (CNN__LEAN)
            for (int e = 0; e < s->rows; e++)
                CNN__FN(cnn__depthwise_stretch)(x + s->tap + e * xr, xr, w + e, acc, 1);
        else if (s->rows == 3)
            CNN__FN(cnn__depthwise_stretch)(x + s->tap, xr, w, acc, 3);
        else if (s->rows == 2)
            CNN__FN(cnn__depthwise_stretch)(x + s->tap, xr, w, acc, 2);
        else
            CNN__FN(cnn__depthwise_stretch)(x + s->tap, xr, w, acc, 1);
    if (lines >= CNN__BAND && n == CNN__V) {
        CNN__UNROLL
        for (int i = 0; i < CNN__BAND; i++)
            CNN__STORE(y + i * yr, acc[i]);
        return;
    }
    CNN__UNROLL
    for (int i = 0; i < CNN__BAND; i++, y += yr)
        if (i < lines)
            CNN__STORE_UP_TO(y, acc[i], n);
}

static void CNN__FN(cnn__depthwise)(const cnn__depthwise *a) {
    for (int i = 0; i < a->lines; i += CNN__BAND)
        for (int p = 0; p < a->n; p += CNN__V) {
            CNN__FN(cnn__depthwise_tile)
            (a, a->x + i * a->xr + p, a->y + i * a->yr + p, a->lines - i,
             a->n - p < CNN__V ? a->n - p : CNN__V);
        }
}

#if CNN__LEAN
/* An element of the kernel at a time. */
static void CNN__FN(cnn__depthwise_lanes)(const cnn__depthwise *a) {
    const int whole = a->n / CNN__V * CNN__V;
    for (int k = 0; k < a->stretches; k++)
        for (int e = 0; e < a->stretch[k].rows; e++) {
            const float *x = a->x + a->stretch[k].tap + e * a->xr, *y = a->dy;
            float *lanes = a->lanes + (k * CNN__TALL + e) * CNN__V;
            CNN__VEC sum = CNN__LOAD(lanes);
            for (int i = 0; i < a->lines; i++, x += a->xr, y += a->yr)
                for (int p = 0; p < whole; p += CNN__V)
                    sum = CNN__FMA(CNN__LOAD(y + p), CNN__LOAD(x + p), sum);
            CNN__STORE(lanes, sum);
        }
}
#else
/* Columns p to end - 1 of lines from to to - 1 of a stretch of ROWS rows, LINES at a time; acc[line % 4][row], as a
   single sum would wait for itself. MASKED: the last vector may not be whole. */
CNN__INLINE void CNN__FN(cnn__depthwise_lines)(const cnn__depthwise *a, int tap, int first, int end, int from,
                                               int to, CNN__VEC (*acc)[CNN__TALL], const int ROWS,
                                               const int LINES, const int MASKED) {
    const ptrdiff_t xr = a->xr, yr = a->yr;
    for (; from < to; from += LINES) {
        const float *x = a->x + tap + from * xr, *y = a->dy + from * yr;
        for (int p = first; p < end; p += CNN__V) {
            const CNN__MASK mask = CNN__LANE_MASK(end - p < CNN__V ? end - p : CNN__V);
            CNN__VEC d[4];
            CNN__UNROLL
            for (int i = 0; i < LINES; i++)
                d[i] = MASKED ? CNN__LOAD_MASKED(y + p + i * yr, mask) : CNN__LOAD(y + p + i * yr);
            CNN__UNROLL
            for (int i = 0; i < LINES + ROWS - 1; i++) {
                const CNN__VEC v =
                    MASKED ? CNN__LOAD_MASKED(x + p + i * xr, mask) : CNN__LOAD(x + p + i * xr);
                CNN__UNROLL
                for (int e = 0; e < ROWS; e++)
                    if (i >= e && i - e < LINES)
                        acc[i - e][e] = CNN__FMA(d[i - e], v, acc[i - e][e]);
            }
        }
    }
}

CNN__INLINE void CNN__FN(cnn__depthwise_column)(const cnn__depthwise *a, int k, const int ROWS) {
    float *lanes = a->lanes + (ptrdiff_t)k * CNN__TALL * CNN__V;
    const int tap = a->stretch[k].tap;
    CNN__VEC acc[4][CNN__TALL];
    CNN__UNROLL
    for (int j = 0; j < 4; j++) {
        CNN__UNROLL
        for (int e = 0; e < ROWS; e++)
            acc[j][e] = CNN__SET1(0.0f);
    }
    const int end = CNN__FREE_MASKS ? a->n : a->n / CNN__V * CNN__V, whole = a->lines / 4 * 4;
    CNN__FN(cnn__depthwise_lines)(a, tap, 0, end, 0, whole, acc, ROWS, 4, CNN__FREE_MASKS);
    CNN__FN(cnn__depthwise_lines)(a, tap, 0, end, whole, a->lines, acc, ROWS, 1, CNN__FREE_MASKS);
    if (!CNN__FREE_MASKS && end < a->n)
        CNN__FN(cnn__depthwise_lines)(a, tap, end, a->n, 0, a->lines, acc, ROWS, 1, 1);
    CNN__UNROLL
    for (int e = 0; e < ROWS; e++, lanes += CNN__V)
        CNN__STORE(lanes, CNN__LOAD(lanes) + ((acc[0][e] + acc[1][e]) + (acc[2][e] + acc[3][e])));
}

static void CNN__FN(cnn__depthwise_lanes)(const cnn__depthwise *a) {
    for (int k = 0; k < a->stretches; k++) {
        if (a->stretch[k].rows == 3)
            CNN__FN(cnn__depthwise_column)(a, k, 3);
        else if (a->stretch[k].rows == 2)
            CNN__FN(cnn__depthwise_column)(a, k, 2);
        else
            CNN__FN(cnn__depthwise_column)(a, k, 1);
    }
}
#endif

#if CNN__LEAN && CNN__V > 1
/* What does not fill a vector. */
CNN__COLD static void CNN__FN(cnn__depthwise_rest)(const cnn__depthwise *a) {
    for (int k = 0; k < a->stretches; k++)
        for (int e = 0; e < a->stretch[k].rows; e++) {
            const float *x = a->x + a->stretch[k].tap + e * a->xr, *y = a->dy;
            float sum = 0;
            for (int i = 0; i < a->lines; i++, x += a->xr, y += a->yr)
                for (int p = a->n / CNN__V * CNN__V; p < a->n; p++)
                    sum += y[p] * x[p];
            a->lanes[(k * CNN__TALL + e) * CNN__V] += sum;
        }
}
#endif

static void CNN__FN(cnn__depthwise_dot)(const cnn__depthwise *a) {
    CNN__FN(cnn__depthwise_lanes)(a);
#if CNN__LEAN && CNN__V > 1
    if (a->n % CNN__V)
        CNN__FN(cnn__depthwise_rest)(a);
#endif
}

#if !CNN__LEAN
/* The passes of a transform are unrolled where registers hold most of what is between them; where it lives in
   memory anyway, they are loops. */
#if CNN__REGISTERS >= 32
#define CNN__PASS_UNROLL CNN__UNROLL
#else
#define CNN__PASS_UNROLL
#endif

/* Winograd's minimal filtering F(4x4, 3x3) (Lavin and Gray 2016): y = A^T [(G g G^T) * (B^T d B)] A, 36
   multiplications for 16 outputs in place of 144. Interpolated at 0, +-p, +-q and infinity with p =
   sqrt(1/2), q = sqrt(2), whose factors are smaller than those of the usual 1 and 2: a third of the error.
   The rows of G lack the usual factors 1, -2/3, -2/3, 1/6, 1/6, 1, which the columns of A^T have instead: they
   cost nothing there. One vector holds the same element of V tiles. */

CNN__INLINE void CNN__FN(cnn__wino_input1)(const CNN__VEC *d, const int s, CNN__VEC *t) { /* t = B^T d */
    const CNN__VEC p = CNN__SET1(0.70710678f), q = CNN__SET1(1.41421356f), sum = CNN__SET1(-2.5f);
    const CNN__VEC pp = CNN__SET1(-0.5f), qq = CNN__SET1(-2.0f), zero = CNN__SET1(0.0f);
    const CNN__VEC a = CNN__FMA(qq, d[2 * s], d[4 * s]), b = CNN__FMA(qq, d[s], d[3 * s]);
    const CNN__VEC c = CNN__FMA(pp, d[2 * s], d[4 * s]), e = CNN__FMA(pp, d[s], d[3 * s]);
    t[0] = CNN__FMA(sum, d[2 * s], d[0] + d[4 * s]);
    t[1] = CNN__FMA(p, b, a);
    t[2] = CNN__FMA(zero - p, b, a);
    t[3] = CNN__FMA(q, e, c);
    t[4] = CNN__FMA(zero - q, e, c);
    t[5] = CNN__FMA(sum, d[3 * s], d[s] + d[5 * s]);
}

CNN__INLINE void CNN__FN(cnn__wino_gradient1)(const CNN__VEC *d, const int s, CNN__VEC *t) { /* t = A d */
    const CNN__VEC p = CNN__SET1(0.70710678f), q = CNN__SET1(1.41421356f);
    const CNN__VEC a = CNN__FMA(CNN__SET1(0.5f), d[2 * s], d[0]),
                   b = CNN__FMA(CNN__SET1(2.0f), d[2 * s], d[0]);
    const CNN__VEC c = p * CNN__FMA(CNN__SET1(0.5f), d[3 * s], d[s]);
    const CNN__VEC e = q * CNN__FMA(CNN__SET1(2.0f), d[3 * s], d[s]);
    t[0] = d[0];
    t[1] = a + c;
    t[2] = a - c;
    t[3] = b + e;
    t[4] = b - e;
    t[5] = d[3 * s];
}

/* V tiles side by side, or V channels of one, of 6x6 inputs or 4x4 output gradients. Pixel (a, b) of them lies
   at x[row[a] + column[b]]. to[(a*6 + b)*pitch + lane]. */
CNN__INLINE void CNN__FN(cnn__wino_tile)(const float *x, const ptrdiff_t *row, const ptrdiff_t *column,
                                         float *to, size_t pitch, const int side) {
    CNN__VEC t[36], d[6];
    CNN__PASS_UNROLL
    for (int b = 0; b < side; b++) {
        CNN__UNROLL
        for (int a = 0; a < side; a++)
            d[a] = CNN__LOAD(x + row[a] + column[b]);
        if (side == 6)
            CNN__FN(cnn__wino_input1)(d, 1, t + b * 6);
        else
            CNN__FN(cnn__wino_gradient1)(d, 1, t + b * 6);
    }
    CNN__PASS_UNROLL
    for (int a = 0; a < 6; a++) {
        if (side == 6)
            CNN__FN(cnn__wino_input1)(t + a, 6, d);
        else
            CNN__FN(cnn__wino_gradient1)(t + a, 6, d);
        CNN__UNROLL
        for (int b = 0; b < 6; b++)
            CNN__STORE(to + (size_t)(a * 6 + b) * pitch, d[b]);
    }
}

CNN__STRIDED static void CNN__FN(cnn__wino_input)(const float *x, const ptrdiff_t *row,
                                                  const ptrdiff_t *column, float *to, size_t pitch) {
    CNN__FN(cnn__wino_tile)(x, row, column, to, pitch, 6);
}

CNN__STRIDED static void CNN__FN(cnn__wino_gradient)(const float *x, const ptrdiff_t *row,
                                                     const ptrdiff_t *column, float *to, size_t pitch) {
    CNN__FN(cnn__wino_tile)(x, row, column, to, pitch, 4);
}

CNN__INLINE void CNN__FN(cnn__wino_weight1)(CNN__VEC g0, CNN__VEC g1, CNN__VEC g2, CNN__VEC *t) { /* G g */
    const CNN__VEC p = CNN__SET1(0.70710678f), q = CNN__SET1(1.41421356f), zero = CNN__SET1(0.0f);
    const CNN__VEC a = CNN__FMA(CNN__SET1(0.5f), g2, g0), b = CNN__FMA(CNN__SET1(2.0f), g2, g0);
    t[0] = g0;
    t[1] = CNN__FMA(p, g1, a);
    t[2] = CNN__FMA(zero - p, g1, a);
    t[3] = CNN__FMA(q, g1, b);
    t[4] = CNN__FMA(zero - q, g1, b);
    t[5] = g2;
}

/* Element b of quad q of v[a] becomes element a of quad q of to[b]. */
CNN__INLINE void CNN__FN(cnn__quads)(const CNN__VEC *v, CNN__VEC *to) {
    const CNN__VEC even[2] = {CNN__QUADS_LOW(v[0], v[2]), CNN__QUADS_HIGH(v[0], v[2])};
    const CNN__VEC odd[2] = {CNN__QUADS_LOW(v[1], v[3]), CNN__QUADS_HIGH(v[1], v[3])};
    to[0] = CNN__QUADS_LOW(even[0], odd[0]);
    to[1] = CNN__QUADS_HIGH(even[0], odd[0]);
    to[2] = CNN__QUADS_LOW(even[1], odd[1]);
    to[3] = CNN__QUADS_HIGH(even[1], odd[1]);
}

/* to[i]: element i of each of V rows of four floats, which begin at p + at[lane]; `whole` where those of
   lanes i, i + 4, i + 8, ... follow one another. */
CNN__INLINE void CNN__FN(cnn__wino_rows)(const float *p, const ptrdiff_t *at, const int whole, CNN__VEC *to) {
    CNN__VEC v[4];
    CNN__UNROLL
    for (int i = 0; i < 4; i++)
        v[i] = whole ? CNN__LOAD(p + at[i]) : CNN__QUADS(p, at + i);
    CNN__FN(cnn__quads)(v, to);
}

/* V tiles of 6x6 pixels of a padded image, its rows `row` floats apart, which begin at x + at[lane]:
   to[(a*6 + b)*pitch + lane]. whole: as of cnn__wino_rows, one load in place of four. */
CNN__INLINE void CNN__FN(cnn__wino_image)(const float *x, size_t row, const ptrdiff_t *at, const int whole,
                                          float *to, size_t pitch) {
    CNN__VEC t[36], d[8];
    CNN__PASS_UNROLL
    for (int a = 0; a < 6; a++, x += row) {
        CNN__FN(cnn__wino_rows)(x, at, whole, d);
        CNN__FN(cnn__wino_rows)(x + 4, at, whole, d + 4);
        CNN__FN(cnn__wino_input1)(d, 1, t + a * 6);
    }
    CNN__PASS_UNROLL
    for (int b = 0; b < 6; b++) {
        CNN__FN(cnn__wino_input1)(t + b, 6, d);
        CNN__UNROLL
        for (int a = 0; a < 6; a++)
            CNN__STORE(to + (size_t)(a * 6 + b) * pitch, d[a]);
    }
}

CNN__OUTLINE CNN__STRIDED static void CNN__FN(cnn__wino_near)(const float *x, size_t row, const ptrdiff_t *at,
                                                              float *to, size_t pitch) {
    CNN__FN(cnn__wino_image)(x, row, at, 1, to, pitch);
}

CNN__OUTLINE CNN__STRIDED static void CNN__FN(cnn__wino_apart)(const float *x, size_t row,
                                                               const ptrdiff_t *at, float *to, size_t pitch) {
    CNN__FN(cnn__wino_image)(x, row, at, 0, to, pitch);
}

static void CNN__FN(cnn__wino_tiles)(const float *x, size_t row, const ptrdiff_t *at, int whole, float *to,
                                     size_t pitch) {
    (whole ? CNN__FN(cnn__wino_near) : CNN__FN(cnn__wino_apart))(x, row, at, to, pitch);
}

CNN__INLINE void CNN__FN(cnn__wino_kernels)(const float *g, const ptrdiff_t *at, const int flip, float *to,
                                            size_t pitch) {
    CNN__VEC d[9], last[4], t[18];
    CNN__FN(cnn__wino_rows)(g, at, 0, d);
    CNN__FN(cnn__wino_rows)(g + 4, at, 0, d + 4);
    CNN__FN(cnn__wino_rows)(g + 5, at, 0, last);
    d[8] = last[3];
    CNN__UNROLL
    for (int b = 0; b < 3; b++)
        CNN__FN(cnn__wino_weight1)
    (d[flip ? 8 - b : b], d[flip ? 5 - b : 3 + b], d[flip ? 2 - b : 6 + b], t + b * 6);
    CNN__UNROLL
    for (int a = 0; a < 6; a++) {
        CNN__VEC e[6];
        CNN__FN(cnn__wino_weight1)(t[a], t[6 + a], t[12 + a], e);
        CNN__UNROLL
        for (int b = 0; b < 6; b++) {
            CNN__STORE(to, e[b]);
            to += pitch;
            CNN__OPAQUE(to);
        }
    }
}

/* V kernels of nine floats, which begin at g + at[lane], or flipped in both axes: element e of them transformed
   to to[e*pitch + lane]. */
CNN__OUTLINE CNN__STRIDED static void CNN__FN(cnn__wino_whole)(const float *g, const ptrdiff_t *at, float *to,
                                                               size_t pitch) {
    CNN__FN(cnn__wino_kernels)(g, at, 0, to, pitch);
}

CNN__OUTLINE CNN__STRIDED static void CNN__FN(cnn__wino_flipped)(const float *g, const ptrdiff_t *at,
                                                                 float *to, size_t pitch) {
    CNN__FN(cnn__wino_kernels)(g, at, 1, to, pitch);
}

/* n such kernels; after `period` of them, a multiple of V, their places repeat `next` floats further on. */
static void CNN__FN(cnn__wino_weight)(const float *g, const ptrdiff_t *at, int period, ptrdiff_t next, int n,
                                      int flip, float *to, size_t pitch) {
    int i = 0, j = 0;
    for (; i + CNN__V <= n; i += CNN__V, to += CNN__V) {
        (flip ? CNN__FN(cnn__wino_flipped) : CNN__FN(cnn__wino_whole))(g, at + j, to, pitch);
        j += CNN__V;
        if (j == period) {
            j = 0;
            g += next;
        }
    }
    if (i < n) {
        ptrdiff_t few[CNN__V];
        float rest[36 * CNN__V];
        for (int lane = 0; lane < CNN__V; lane++)
            few[lane] = at[j + (i + lane < n ? lane : 0)];
        (flip ? CNN__FN(cnn__wino_flipped) : CNN__FN(cnn__wino_whole))(g, few, rest, CNN__V);
        for (size_t e = 0; e < 36; e++)
            memcpy(to + e * pitch, rest + e * CNN__V, (size_t)(n - i) * sizeof(float));
    }
}

CNN__INLINE void CNN__FN(cnn__wino_output1)(const CNN__VEC *m, const int s, CNN__VEC *t) { /* t = A^T m */
    const CNN__VEC a = m[s] + m[2 * s], b = m[2 * s] - m[s], c = m[3 * s] + m[4 * s], e = m[3 * s] - m[4 * s];
    t[0] = CNN__FMA(CNN__SET1(-2.0f / 3), a, CNN__FMA(CNN__SET1(1.0f / 6), c, m[0]));
    t[1] = CNN__FMA(CNN__SET1(0.47140452f), b, CNN__SET1(0.23570226f) * e);
    t[2] = CNN__SET1(1.0f / 3) * (c - a);
    t[3] = CNN__FMA(CNN__SET1(0.23570226f), b, CNN__FMA(CNN__SET1(0.47140452f), e, m[5 * s]));
}

/* A^T times V tiles, element (a, b) at m[(a*6 + b)*pitch]: 4 x 6, by columns. */
CNN__INLINE void CNN__FN(cnn__wino_output_columns)(const float *m, size_t pitch, CNN__VEC *t) {
    CNN__UNROLL
    for (int b = 0; b < 6; b++) {
        CNN__VEC d[6];
        CNN__UNROLL
        for (int a = 0; a < 6; a++)
            d[a] = CNN__LOAD(m + (size_t)(a * 6 + b) * pitch);
        CNN__FN(cnn__wino_output1)(d, 1, t + b * 4);
    }
}

/* One tile of V examples, or of V outputs, from m[(a*6 + b)*pitch], plus bias[lane]; the rows and columns of
   it that count, at most 4, to to[a*to_pitch + b*CNN__LANES]. */
CNN__STRIDED static void CNN__FN(cnn__wino_cells)(const float *m, size_t pitch, const float *bias, int rows,
                                                  int columns, float *to, size_t to_pitch) {
    CNN__VEC t[24];
    const CNN__VEC add = CNN__LOAD(bias);
    CNN__FN(cnn__wino_output_columns)(m, pitch, t);
    for (int a = 0; a < rows; a++, to += to_pitch) {
        CNN__VEC d[4];
        CNN__FN(cnn__wino_output1)(t + a, 4, d);
        CNN__UNROLL
        for (int b = 0; b < 4; b++)
            if (b < columns)
                CNN__STORE(to + b * CNN__LANES, d[b] + add);
    }
}

/* V tiles from m[(a*6 + b)*pitch]; their rows a, of those that are lane i of their quads side by side, to
   to[i] + a*row[i]. */
CNN__STRIDED static void CNN__FN(cnn__wino_output)(const float *m, size_t pitch, float bias, float *const *to,
                                                   const size_t *row) {
    CNN__VEC t[24];
    const CNN__VEC add = CNN__SET1(bias);
    CNN__FN(cnn__wino_output_columns)(m, pitch, t);
    CNN__UNROLL
    for (size_t a = 0; a < 4; a++) {
        CNN__VEC d[4], r[4];
        CNN__FN(cnn__wino_output1)(t + a, 4, d);
        CNN__UNROLL
        for (int b = 0; b < 4; b++)
            d[b] = d[b] + add;
        CNN__FN(cnn__quads)(d, r);
        CNN__UNROLL
        for (int i = 0; i < 4; i++)
            CNN__STORE(to[i] + a * row[i], r[i]);
    }
}

/* For dw the transforms' adjoints: dg = G^T [sum over tiles of (B^T d B) * (A dy A^T)] G, the factors being
   G's here. Lanes: channels. */

CNN__INLINE void CNN__FN(cnn__wino_kernel1)(const CNN__VEC *m, const int s, CNN__VEC *t) { /* t = G^T m */
    const CNN__VEC a = m[s] + m[2 * s], b = m[s] - m[2 * s], c = m[3 * s] + m[4 * s], e = m[3 * s] - m[4 * s];
    t[0] = CNN__FMA(CNN__SET1(-2.0f / 3), a, CNN__FMA(CNN__SET1(1.0f / 6), c, m[0]));
    t[1] = CNN__FMA(CNN__SET1(-0.47140452f), b, CNN__SET1(0.23570226f) * e);
    t[2] = CNN__FMA(CNN__SET1(1.0f / 3), c - a, m[5 * s]);
}

/* The gradient of V kernels, from m[(a*6 + b)*pitch + lane]; to[(a*3 + b)*V + lane]. */
CNN__STRIDED static void CNN__FN(cnn__wino_kernel)(const float *m, size_t pitch, float *to) {
    CNN__VEC t[18];
    CNN__UNROLL
    for (int b = 0; b < 6; b++) {
        CNN__VEC d[6];
        CNN__UNROLL
        for (int a = 0; a < 6; a++)
            d[a] = CNN__LOAD(m + (size_t)(a * 6 + b) * pitch);
        CNN__FN(cnn__wino_kernel1)(d, 1, t + b * 3);
    }
    CNN__UNROLL
    for (int a = 0; a < 3; a++) {
        CNN__VEC d[3];
        CNN__FN(cnn__wino_kernel1)(t + a, 3, d);
        CNN__UNROLL
        for (int b = 0; b < 3; b++)
            CNN__STORE(to + (a * 3 + b) * CNN__V, d[b]);
    }
}

#endif

/* g[i] += the sum of vector i of lanes. */
static void CNN__FN(cnn__fold)(const float *lanes, float *g, size_t n) {
    for (size_t i = 0; i < n; i++)
        g[i] += CNN__SUM(CNN__LOAD(lanes + i * CNN__V));
}

/* Rows of n floats; short ones, for which a call of memcpy each is too much. */
static void CNN__FN(cnn__copy)(const float *from, size_t from_pitch, float *to, size_t to_pitch, size_t n,
                               int rows) {
    for (; rows > 0; rows--, from += from_pitch, to += to_pitch) {
        size_t i = 0;
        for (; i + CNN__V <= n; i += CNN__V)
            CNN__STORE(to + i, CNN__LOAD(from + i));
        if (i < n && n > CNN__V) /* once more some of what the vector before has copied */
            CNN__STORE(to + n - CNN__V, CNN__LOAD(from + n - CNN__V));
        else if (i < n)
            CNN__STORE_N(to, CNN__LOAD_N(from, (int)n), (int)n);
    }
}

/* Rows of y[i] = x[i*step], i < n; by vectors for steps of 2 and 4, the usual strides. */
static void CNN__FN(cnn__every)(const float *x, size_t x_pitch, int step, float *y, size_t y_pitch, size_t n,
                                int rows) {
    for (; rows > 0; rows--, x += x_pitch, y += y_pitch) {
        size_t i = 0;
        for (; step == 2 && i + CNN__V < n; i += CNN__V)
            CNN__STORE(y + i, CNN__EVEN(CNN__LOAD(x + 2 * i), CNN__LOAD(x + 2 * i + CNN__V)));
        if (i) { /* once more some of what the vector before has taken */
            i = n - CNN__V;
            CNN__STORE(y + i, CNN__FN(cnn__strided)(x + 2 * i, 2, CNN__V));
            continue;
        }
        for (; step != 2 && step != 4 && i < n; i++)
            y[i] = x[i * (size_t)step];
        for (; i < n; i += CNN__V) {
            const float *from = x + i * (size_t)step;
            const int r = n - i < CNN__V ? (int)(n - i) : CNN__V, twice = step == 2 ? r : 2 * r - 1;
            CNN__VEC v = CNN__FN(cnn__strided)(from, 2, twice < CNN__V ? twice : CNN__V);
            if (step == 4)
                v = CNN__EVEN(v, twice > CNN__V ? CNN__FN(cnn__strided)(from + 2 * CNN__V, 2, twice - CNN__V)
                                                : v);
            CNN__STORE_UP_TO(y + i, v, r);
        }
    }
}

static float CNN__FN(cnn__sum)(const float *x, size_t n) {
    CNN__VEC s0 = CNN__SET1(0.0f), s1 = s0, s2 = s0, s3 = s0;
    size_t i = 0;
    for (; i + 4 * CNN__V <= n; i += 4 * CNN__V) {
        s0 = s0 + CNN__LOAD(x + i);
        s1 = s1 + CNN__LOAD(x + i + CNN__V);
        s2 = s2 + CNN__LOAD(x + i + 2 * CNN__V);
        s3 = s3 + CNN__LOAD(x + i + 3 * CNN__V);
    }
    for (; i + CNN__V <= n; i += CNN__V)
        s0 = s0 + CNN__LOAD(x + i);
    if (i < n)
        s1 = s1 + CNN__LOAD_N(x + i, (int)(n - i));
    return CNN__SUM((s0 + s1) + (s2 + s3));
}

CNN__INLINE CNN__VEC CNN__FN(cnn__sigmoid1)(CNN__VEC x) {
    return CNN__RECIPROCAL(CNN__SET1(1.0f) + CNN__FN(cnn__exp)(x, -1.0f));
}

/* Below 0.625 an odd polynomial (Cephes), where 1 - 2/(exp(2x) + 1) would cancel. Its argument is kept there,
   so that choosing by a difference loses nothing. */
CNN__INLINE CNN__VEC CNN__FN(cnn__tanh1)(CNN__VEC x) {
    const CNN__VEC edge = CNN__SET1(0.625f);
    const CNN__VEC u = CNN__MIN(edge, CNN__MAX(CNN__SET1(0.0f) - edge, x)), z = u * u;
    CNN__VEC p = CNN__FMA(z, CNN__SET1(-5.70498872745e-3f), CNN__SET1(2.06390887954e-2f));
    p = CNN__FMA(p, z, CNN__SET1(-5.37397155531e-2f));
    p = CNN__FMA(p, z, CNN__SET1(1.33314422036e-1f));
    p = CNN__FMA(p, z, CNN__SET1(-3.33332819422e-1f));
    const CNN__VEC small = CNN__FMA(p * z, u, u);
    x = CNN__MIN(CNN__SET1(9.1f), CNN__MAX(CNN__SET1(-9.1f), x));
    const CNN__VEC large =
        CNN__SET1(1.0f) - CNN__SET1(2.0f) / (CNN__FN(cnn__exp)(x + x, 1.0f) + CNN__SET1(1.0f));
    return small + CNN__IF_ABOVE(x * x, CNN__SET1(0.390625f), large - small);
}

CNN__INLINE CNN__VEC CNN__FN(cnn__relu1)(CNN__VEC x) {
    return CNN__MAX(CNN__SET1(0.0f), x);
}

CNN__INLINE CNN__VEC CNN__FN(cnn__sigmoid_backward1)(CNN__VEC y, CNN__VEC dy) {
    return dy * (y - y * y);
}

CNN__INLINE CNN__VEC CNN__FN(cnn__tanh_backward1)(CNN__VEC y, CNN__VEC dy) {
    return dy * (CNN__SET1(1.0f) - y * y);
}

CNN__INLINE CNN__VEC CNN__FN(cnn__relu_backward1)(CNN__VEC y, CNN__VEC dy) {
    return CNN__IF_ABOVE(y, CNN__SET1(0.0f), dy);
}

CNN__INLINE CNN__VEC CNN__FN(cnn__add1)(CNN__VEC a, CNN__VEC b) {
    return a + b;
}

#define CNN__UNARY(name, f)                                                                                  \
    CNN__THOROUGH static void CNN__FN(name)(const float *x, float *y, size_t n) {                            \
        size_t i = 0;                                                                                        \
        for (; i + CNN__V <= n; i += CNN__V)                                                                 \
            CNN__STORE(y + i, CNN__FN(f)(CNN__LOAD(x + i)));                                                 \
        if (i < n)                                                                                           \
            CNN__STORE_N(y + i, CNN__FN(f)(CNN__LOAD_N(x + i, (int)(n - i))), (int)(n - i));                 \
    }
#define CNN__BINARY(name, f)                                                                                 \
    static void CNN__FN(name)(const float *a, const float *b, float *y, size_t n) {                          \
        size_t i = 0;                                                                                        \
        for (; i + CNN__V <= n; i += CNN__V)                                                                 \
            CNN__STORE(y + i, CNN__FN(f)(CNN__LOAD(a + i), CNN__LOAD(b + i)));                               \
        if (i < n) {                                                                                         \
            const int r = (int)(n - i);                                                                      \
            CNN__STORE_N(y + i, CNN__FN(f)(CNN__LOAD_N(a + i, r), CNN__LOAD_N(b + i, r)), r);                \
        }                                                                                                    \
    }
CNN__UNARY(cnn__sigmoid, cnn__sigmoid1)
CNN__UNARY(cnn__tanh, cnn__tanh1)
CNN__UNARY(cnn__relu, cnn__relu1)
CNN__BINARY(cnn__sigmoid_backward, cnn__sigmoid_backward1)
CNN__BINARY(cnn__tanh_backward, cnn__tanh_backward1)
CNN__BINARY(cnn__relu_backward, cnn__relu_backward1)
CNN__BINARY(cnn__add3, cnn__add1)
#undef CNN__UNARY
#undef CNN__BINARY

CNN__INLINE void CNN__FN(cnn__pooled_rows)(const cnn__pool *p, const float *y, const float *dy, float *dx,
                                           int rows, CNN__VEC (*f)(CNN__VEC y, CNN__VEC dy)) {
    const size_t row = (size_t)p->w * CNN__LANES;
    for (; rows > 0; rows--, y += row, dx += row) /* of windows: of the input there are two */
        for (int ow = 0; ow < p->ow; ow++, y += CNN__LANES, dx += CNN__LANES)
            for (int r = 0; r < CNN__LANES; r += CNN__V, dy += CNN__V, y += CNN__V, dx += CNN__V) {
                const CNN__VEC share = CNN__LOAD(dy) * CNN__SET1(0.25f);
                CNN__STORE(dx, f(CNN__LOAD(y), share));
                CNN__STORE(dx + CNN__LANES, f(CNN__LOAD(y + CNN__LANES), share));
                CNN__STORE(dx + row, f(CNN__LOAD(y + row), share));
                CNN__STORE(dx + row + CNN__LANES, f(CNN__LOAD(y + row + CNN__LANES), share));
            }
}

static void CNN__FN(cnn__pooled_backward)(const cnn__pool *p, cnn_layer_kind activation, const float *y,
                                          const float *dy, float *dx, int c) {
    if (activation == CNN_SIGMOID)
        CNN__FN(cnn__pooled_rows)(p, y, dy, dx, c * p->oh, CNN__FN(cnn__sigmoid_backward1));
    else if (activation == CNN_TANH)
        CNN__FN(cnn__pooled_rows)(p, y, dy, dx, c * p->oh, CNN__FN(cnn__tanh_backward1));
    else
        CNN__FN(cnn__pooled_rows)(p, y, dy, dx, c * p->oh, CNN__FN(cnn__relu_backward1));
}

static void CNN__FN(cnn__add_to)(float *y, const float *x, size_t n) {
    CNN__FN(cnn__add3)(y, x, y, n);
}

/* y[m] = bias[m] + sum over k < n of w[m*n + k] * x[k], m < rows; bias may be NULL. V rows at a time, one of
   them again and again where fewer are left, so that as many loads are under way. */
static void CNN__FN(cnn__matrix_vector)(const float *w, const float *x, const float *bias, float *y, int rows,
                                        int n) {
    const int whole = CNN__FREE_MASKS ? 0 : n / CNN__V * CNN__V;
    for (int m = 0; m < rows; m += CNN__V) {
        const int left = rows - m < CNN__V ? rows - m : CNN__V;
        const float *row[CNN__V];
        CNN__VEC acc[CNN__V], v[CNN__V]; /* v for its address, without which acc stays in registers */
        CNN__UNROLL
        for (int i = 0; i < CNN__V; i++) {
            row[i] = w + (ptrdiff_t)(m + (i < left ? i : 0)) * n;
            acc[i] = CNN__SET1(0.0f);
        }
        for (int k = 0; k < whole; k += CNN__V) {
            const CNN__VEC b = CNN__LOAD(x + k);
            CNN__UNROLL
            for (int i = 0; i < CNN__V; i++)
                acc[i] = CNN__FMA(CNN__LOAD(row[i] + k), b, acc[i]);
        }
        for (int k = whole; k < n; k += CNN__V) {
            const CNN__MASK mask = CNN__LANE_MASK(n - k < CNN__V ? n - k : CNN__V);
            const CNN__VEC b = CNN__LOAD_MASKED(x + k, mask);
            CNN__UNROLL
            for (int i = 0; i < CNN__V; i++)
                acc[i] = CNN__FMA(CNN__LOAD_MASKED(row[i] + k, mask), b, acc[i]);
        }
        CNN__UNROLL
        for (int i = 0; i < CNN__V; i++)
            v[i] = acc[i];
        CNN__VEC sum = CNN__FN(cnn__sums)(v);
        if (bias)
            sum = sum + CNN__LOAD_UP_TO(bias + m, left);
        CNN__STORE_UP_TO(y + m, sum, left);
    }
}

CNN__INLINE CNN__VEC CNN__FN(cnn__sgd1)(const cnn_sgd_options *o, CNN__VEC p, CNN__VEC g, CNN__VEC *v) {
    const CNN__VEC momentum = CNN__SET1(o->momentum);
    g = CNN__FMA(CNN__SET1(o->weight_decay), p, g);
    if (o->momentum > 0) {
        *v = CNN__FMA(momentum, *v, g);
        g = o->nesterov ? CNN__FMA(momentum, *v, g) : *v;
    }
    return CNN__FMA(CNN__SET1(-o->lr), g, p);
}

static void CNN__FN(cnn__sgd)(const cnn_sgd_options *o, float *p, const float *g, float *v, size_t n) {
    CNN__VEC u = CNN__SET1(0.0f);
    const int moving = o->momentum > 0;
    size_t i = 0;
    for (; i + CNN__V <= n; i += CNN__V) {
        if (moving)
            u = CNN__LOAD(v + i);
        CNN__STORE(p + i, CNN__FN(cnn__sgd1)(o, CNN__LOAD(p + i), CNN__LOAD(g + i), &u));
        if (moving)
            CNN__STORE(v + i, u);
    }
    if (i < n) {
        const int r = (int)(n - i);
        if (moving)
            u = CNN__LOAD_N(v + i, r);
        CNN__STORE_N(p + i, CNN__FN(cnn__sgd1)(o, CNN__LOAD_N(p + i, r), CNN__LOAD_N(g + i, r), &u), r);
        if (moving)
            CNN__STORE_N(v + i, u, r);
    }
}

/* block[i] = bytes[i]/255, rounded as that division is: the remainder corrects the product. */
static void CNN__FN(cnn__from_bytes)(const unsigned char *bytes, float *block, size_t n) {
    const CNN__VEC scale = CNN__SET1(1.0f / 255.0f), unit = CNN__SET1(-255.0f);
    for (size_t i = 0; i < n; i += CNN__V) {
        const CNN__VEC v = CNN__LOAD_BYTES(bytes + i), q = v * scale;
        CNN__STORE(block + i, CNN__FMA(CNN__FMA(q, unit, v), scale, q));
    }
}
#endif /* CNN__WHOLE */

#ifndef CNN__LENDER
/* Softmax over c rows of n values each: y[k][i] = exp(x[k][i] - max) / sum. max and sum, unless NULL, get n
   values. In place allowed. r values at a time: V, or the rest. */
CNN__THOROUGH static void CNN__FN(cnn__softmax_at)(const float *x, float *y, float *max, float *sum, int c,
                                                   size_t n, int r) {
    CNN__VEC top = CNN__LOAD_UP_TO(x, r), total = CNN__SET1(0.0f);
    for (int k = 1; k < c; k++)
        top = CNN__MAX_NAN(top, CNN__LOAD_UP_TO(x + (size_t)k * n, r));
    for (int k = 0; k < c; k++) {
        const CNN__VEC e = CNN__FN(cnn__exp)(CNN__LOAD_UP_TO(x + (size_t)k * n, r) - top, 1.0f);
        total = total + e;
        CNN__STORE_UP_TO(y + (size_t)k * n, e, r);
    }
    const CNN__VEC scale = CNN__SET1(1.0f) / total;
    for (int k = 0; k < c; k++) {
        float *p = y + (size_t)k * n;
        CNN__STORE_UP_TO(p, CNN__LOAD_UP_TO(p, r) * scale, r);
    }
    if (max)
        CNN__STORE_UP_TO(max, top, r);
    if (sum)
        CNN__STORE_UP_TO(sum, total, r);
}

/* Softmax of n <= V samples of c values side by side: vectors run along a sample, whose maximum and sum come
   together with those of the others. Lanes beyond a sample's end count as minus infinity, whose exponential
   does not show beside that of the maximum, 1. What writes goes from the last sample to the first: a masked
   store at a sample's end holds up loads from the next. */
CNN__THOROUGH static void CNN__FN(cnn__softmax_samples)(const float *x, float *y, float *max, float *sum,
                                                        int c, int n) {
    const int whole = (c - 1) / CNN__V * CNN__V, r = c - whole;
    float top[CNN__V], scale[CNN__V];
    CNN__VEC v[CNN__V], ends[CNN__V];
    CNN__STORE(top, CNN__SET1(1.0f));
    const CNN__VEC none = CNN__IF_ABOVE(CNN__SET1(1.0f), CNN__LOAD_UP_TO(top, r), CNN__SET1(-INFINITY));
    for (int s = 0; s < CNN__V; s++)
        v[s] = CNN__SET1(1.0f);
    for (int s = 0; s < n; s++) {
        const float *from = x + (size_t)s * (size_t)c;
        v[s] = CNN__LOAD_UP_TO(from + whole, r) + none;
        for (int k = 0; k < whole; k += CNN__V)
            v[s] = CNN__MAX_NAN(CNN__LOAD(from + k), v[s]);
    }
    const CNN__VEC tops = CNN__FN(cnn__maxima)(v);
    CNN__STORE(top, tops);
    for (int s = n - 1; s >= 0; s--) {
        const float *from = x + (size_t)s * (size_t)c;
        float *to = y + (size_t)s * (size_t)c;
        const CNN__VEC t = CNN__SET1(top[s]);
        ends[s] = CNN__FN(cnn__exp)(CNN__LOAD_UP_TO(from + whole, r) + none - t, 1.0f);
        CNN__VEC total = ends[s];
        for (int k = 0; k < whole; k += CNN__V) {
            const CNN__VEC e = CNN__FN(cnn__exp)(CNN__LOAD(from + k) - t, 1.0f);
            CNN__STORE(to + k, e);
            total = total + e;
        }
        v[s] = total;
    }
    const CNN__VEC totals = CNN__FN(cnn__sums)(v);
    CNN__STORE(scale, CNN__SET1(1.0f) / totals);
    for (int s = n - 1; s >= 0; s--) {
        float *to = y + (size_t)s * (size_t)c;
        const CNN__VEC t = CNN__SET1(scale[s]);
        for (int k = 0; k < whole; k += CNN__V)
            CNN__STORE(to + k, CNN__LOAD(to + k) * t);
        CNN__STORE_UP_TO(to + whole, ends[s] * t, r);
    }
    if (max)
        CNN__STORE_UP_TO(max, tops, n);
    if (sum)
        CNN__STORE_UP_TO(sum, totals, n);
}

/* Of one sample, or, where n is 1, of `samples`; max and sum, unless NULL, get n values of each. */
CNN__THOROUGH static void CNN__FN(cnn__softmax)(const float *x, float *y, float *max, float *sum, int c,
                                                size_t n, int samples) {
    const size_t all = n == 1 ? (size_t)samples : n, step = n == 1 ? (size_t)c : 1;
    for (size_t i = 0; i < all; i += CNN__V) {
        const int r = all - i < CNN__V ? (int)(all - i) : CNN__V;
        float *m = max ? max + i : NULL, *t = sum ? sum + i : NULL;
        if (n == 1 && CNN__V > 1)
            CNN__FN(cnn__softmax_samples)(x + i * step, y + i * step, m, t, c, r);
        else
            CNN__FN(cnn__softmax_at)(x + i * step, y + i * step, m, t, c, n, r);
    }
}

/* dx = y * (dy - sum over k of y dy). */
static void CNN__FN(cnn__softmax_backward_at)(const float *y, const float *dy, float *dx, int c, size_t n,
                                              int r) {
    CNN__VEC s = CNN__SET1(0.0f);
    for (int k = 0; k < c; k++) {
        const size_t o = (size_t)k * n;
        s = CNN__FMA(CNN__LOAD_UP_TO(y + o, r), CNN__LOAD_UP_TO(dy + o, r), s);
    }
    for (int k = 0; k < c; k++) {
        const size_t o = (size_t)k * n;
        CNN__STORE_UP_TO(dx + o, CNN__LOAD_UP_TO(y + o, r) * (CNN__LOAD_UP_TO(dy + o, r) - s), r);
    }
}

static void CNN__FN(cnn__softmax_samples_backward)(const float *y, const float *dy, float *dx, int c, int n) {
    const int whole = (c - 1) / CNN__V * CNN__V, r = c - whole;
    float total[CNN__V];
    CNN__VEC v[CNN__V];
    for (int s = 0; s < CNN__V; s++)
        v[s] = CNN__SET1(0.0f);
    for (int s = 0; s < n; s++) {
        const float *a = y + (size_t)s * (size_t)c, *b = dy + (size_t)s * (size_t)c;
        v[s] = CNN__LOAD_UP_TO(a + whole, r) * CNN__LOAD_UP_TO(b + whole, r);
        for (int k = 0; k < whole; k += CNN__V)
            v[s] = CNN__FMA(CNN__LOAD(a + k), CNN__LOAD(b + k), v[s]);
    }
    CNN__STORE(total, CNN__FN(cnn__sums)(v));
    for (int s = n - 1; s >= 0; s--) {
        const size_t at = (size_t)s * (size_t)c, last = at + (size_t)whole;
        const CNN__VEC t = CNN__SET1(total[s]);
        for (size_t k = at; k < last; k += CNN__V)
            CNN__STORE(dx + k, CNN__LOAD(y + k) * (CNN__LOAD(dy + k) - t));
        CNN__STORE_UP_TO(dx + last, CNN__LOAD_UP_TO(y + last, r) * (CNN__LOAD_UP_TO(dy + last, r) - t), r);
    }
}

static void CNN__FN(cnn__softmax_backward)(const float *y, const float *dy, float *dx, int c, size_t n,
                                           int samples) {
    const size_t all = n == 1 ? (size_t)samples : n, step = n == 1 ? (size_t)c : 1;
    for (size_t i = 0; i < all; i += CNN__V) {
        const int r = all - i < CNN__V ? (int)(all - i) : CNN__V;
        const size_t at = i * step;
        if (n == 1 && CNN__V > 1)
            CNN__FN(cnn__softmax_samples_backward)(y + at, dy + at, dx + at, c, r);
        else
            CNN__FN(cnn__softmax_backward_at)(y + at, dy + at, dx + at, c, n, r);
    }
}

/* Pooling of cells: cell is 1, in the instance whose vectors are single floats, or a multiple of CNN__V.
   First the common case: windows of 2x2 side by side, without padding.
   Vectors of more take planes only where windows are such pairs of pairs (cnn__pool_kernels). */
CNN__OUTLINE static void CNN__FN(cnn__pool_tiled)(const cnn__pool *p, const float *x, float *y, int c,
                                                  int cell, int max) {
    const size_t row = (size_t)p->w * (size_t)cell;
    const CNN__VEC quarter = CNN__SET1(0.25f);
    for (; c > 0; c--, x += (size_t)(p->h - p->oh * 2) * row)
        for (int oh = 0; oh < p->oh; oh++, x += 2 * row)
            for (int ow = 0; ow < p->ow; ow++)
                for (int r = 0; r < cell; r += CNN__V, y += CNN__V) {
                    const float *at = x + (size_t)ow * 2 * (size_t)cell + r;
                    const CNN__VEC a = CNN__LOAD(at), b = CNN__LOAD(at + cell);
                    const CNN__VEC d = CNN__LOAD(at + row), e = CNN__LOAD(at + row + cell);
                    if (max)
                        CNN__STORE(y, CNN__MAX_NAN(CNN__MAX_NAN(a, b), CNN__MAX_NAN(d, e)));
                    else
                        CNN__STORE(y, (a + b + d + e) * quarter);
                }
}

static void CNN__FN(cnn__avgpool_tiled_backward)(const cnn__pool *p, const float *dy, float *dx, int c,
                                                 int cell) {
    const size_t row = (size_t)p->w * (size_t)cell;
    for (; c > 0; c--, dx += (size_t)(p->h - p->oh * 2) * row)
        for (int oh = 0; oh < p->oh; oh++, dx += 2 * row)
            for (int ow = 0; ow < p->ow; ow++)
                for (int r = 0; r < cell; r += CNN__V, dy += CNN__V) {
                    float *at = dx + (size_t)ow * 2 * (size_t)cell + r;
                    const CNN__VEC share = CNN__LOAD(dy) * CNN__SET1(0.25f);
                    CNN__STORE(at, share);
                    CNN__STORE(at + cell, share);
                    CNN__STORE(at + row, share);
                    CNN__STORE(at + row + cell, share);
                }
}

static void CNN__FN(cnn__maxpool_tiled_backward)(const cnn__pool *p, const float *x, const float *y,
                                                 const float *dy, float *dx, int c, int cell) {
    const size_t row = (size_t)p->w * (size_t)cell, rest_rows = (size_t)(p->h - p->oh * 2) * row;
    for (; c > 0; c--, x += rest_rows, dx += rest_rows)
        for (int oh = 0; oh < p->oh; oh++, x += 2 * row, dx += 2 * row)
            for (int ow = 0; ow < p->ow; ow++)
                for (int r = 0; r < cell; r += CNN__V, y += CNN__V, dy += CNN__V) {
                    const size_t at = (size_t)ow * 2 * (size_t)cell + (size_t)r;
                    const CNN__VEC top = CNN__LOAD(y);
                    CNN__VEC rest = CNN__LOAD(dy); /* what has not been given away yet */
                    CNN__UNROLL
                    for (int i = 0; i < 4; i++) {
                        const size_t o = at + (size_t)(i / 2) * row + (size_t)(i % 2) * (size_t)cell;
                        const CNN__VEC kept = CNN__IF_ABOVE(top, CNN__LOAD(x + o), rest);
                        CNN__STORE(dx + o, rest - kept);
                        rest = kept;
                    }
                }
}

/* Max pooling of a plane: outputs from..to-1 of the row whose windows have the rows v. PyTorch's rule: the
   first of equal elements, the last NaN. y and indices (or NULL) are the row's. */
static void CNN__FN(cnn__maxpool_windows)(const cnn__pool *p, const float *x, cnn__window v, int from, int to,
                                          float *y, int *indices) {
    for (int ow = from; ow < to; ow++) {
        const cnn__window u = cnn__window_at(ow, p->w, p->kw, p->sw, p->pw, p->dw, 0);
        float best = -INFINITY;
        int index = -1;
        for (int i = v.first; i < v.end; i += p->dh)
            for (int j = u.first; j < u.end; j += p->dw) {
                const float value = x[(size_t)i * (size_t)p->w + (size_t)j];
                if (value > best || index < 0 || value != value) {
                    best = value;
                    index = i * p->w + j;
                }
            }
        y[ow] = best;
        if (indices)
            indices[ow] = index;
    }
}

/* Outputs from..to-1 of a row, whose windows have columns on the image only: V windows together, element by
   element; the last vector is whole if it can be. `place` is the maximum's distance from the window's first
   element: where one is taken, by the rule of cnn__maxpool_windows, its distance is greater than what `place`
   held. Indices are below 2^23: added to 2^23 a float's bits are 150 << 23 and the index, and 362 << 23 makes
   that the index alone. */
static void CNN__FN(cnn__maxpool_row)(const cnn__pool *p, const float *x, cnn__window v, int from, int to,
                                      float *y, int *indices) {
    const CNN__VEC infinity = CNN__SET1(INFINITY), bits = CNN__SET1(12582912.0f + 362.0f);
    CNN__MAYBE const CNN__MASK mask = CNN__LANE_MASK(CNN__V - 1);
    float lane[CNN__V];
    for (int i = 0; i < CNN__V; i++)
        lane[i] = (float)(i * p->sw) + 8388608.0f;
    for (int next = from; next < to; next += CNN__V) {
        const int ow = to - next < CNN__V && to - from >= CNN__V ? to - CNN__V : next;
        const int r = to - ow < CNN__V ? to - ow : CNN__V, first = v.first * p->w + ow * p->sw - p->pw;
        CNN__VEC best = CNN__SET1(0.0f), place = best;
        for (int i = 0; i < v.end - v.first; i += p->dh)
            for (int j = 0; j < p->kw; j++) {
                const int at = i * p->w + j * p->dw;
                const float *const u = x + first + at;
                CNN__VEC value;
                if (r < CNN__V)
                    value = CNN__FN(cnn__strided)(u, p->sw, r);
                else if (p->sw == 1)
                    value = CNN__LOAD(u);
                else
                    value = CNN__EVEN(CNN__LOAD(u), CNN__LOAD_MASKED(u + CNN__V, mask));
                if (at == 0)
                    best = value;
                /* a best that is NaN gives way to NaN only, as infinity does */
                const CNN__VEC bar = CNN__MIN(best, infinity);
                place = CNN__MAX(place, CNN__IF_ABOVE(value, bar, CNN__SET1((float)at)));
                best = CNN__MAX_NAN(value, best);
            }
        CNN__STORE_UP_TO(y + ow, best, r);
        if (indices) {
            const CNN__VEC index = place + CNN__SET1((float)first) + CNN__LOAD(lane);
            CNN__STORE_UP_TO((float *)(void *)(indices + ow), CNN__SCALE(index, bits), r);
        }
    }
}

/* Planes; places within a window must be exact as floats. */
static void CNN__FN(cnn__maxpool_planes)(const cnn__pool *p, const float *x, float *y, int *indices, int c) {
    const int last = p->w - 1 - (p->kw - 1) * p->dw + p->pw; /* where the last whole window would start */
    const int vectors = CNN__V > 1 && p->sw <= 2 && last >= 0 && p->h * p->w <= 1 << 23;
    const int from = (p->pw + p->sw - 1) / p->sw, to = last / p->sw + 1;
    for (; c > 0; c--, x += (size_t)p->h * (size_t)p->w)
        for (int oh = 0; oh < p->oh; oh++, y += p->ow) {
            const cnn__window v = cnn__window_at(oh, p->h, p->kh, p->sh, p->ph, p->dh, 0);
            const int inner = vectors && v.first < v.end && from < to;
            CNN__FN(cnn__maxpool_windows)(p, x, v, 0, inner ? from : p->ow, y, indices);
            if (inner) {
                CNN__FN(cnn__maxpool_row)(p, x, v, from, to, y, indices);
                CNN__FN(cnn__maxpool_windows)(p, x, v, to, p->ow, y, indices);
            }
            indices = indices ? indices + p->ow : NULL;
        }
}

/* The maxima or means of V windows of 2x2 side by side, from two rows of 2*V elements, u and v. */
CNN__INLINE CNN__VEC CNN__FN(cnn__pool_pair)(CNN__VEC u0, CNN__VEC v0, CNN__VEC u1, CNN__VEC v1,
                                             const int max) {
    if (!max) {
        const CNN__VEC u = u0 + u1, v = v0 + v1;
        return (CNN__EVEN(u, v) + CNN__ODD(u, v)) * CNN__SET1(0.25f);
    }
    const CNN__VEC u = CNN__MAX_NAN(u0, u1), v = CNN__MAX_NAN(v0, v1);
    const CNN__VEC even = CNN__EVEN(u, v), odd = CNN__ODD(u, v);
    return CNN__MAX_NAN(even, odd);
}

CNN__INLINE CNN__VEC CNN__FN(cnn__pool_pairs_at)(const float *x, size_t w, const int max) {
    return CNN__FN(cnn__pool_pair)(CNN__LOAD(x), CNN__LOAD(x + CNN__V), CNN__LOAD(x + w),
                                   CNN__LOAD(x + w + CNN__V), max);
}

/* Such windows on planes. Masked stores are slow: a row's last vector overlaps the one before, and of rows of
   fewer outputs than V the next row overwrites what is too much. */
CNN__INLINE void CNN__FN(cnn__pool_pairs)(const cnn__pool *p, const float *x, float *y, int c,
                                          const int max) {
    const size_t w = (size_t)p->w;
    const int n = p->ow, most = 2 * n < CNN__V ? 2 * n : CNN__V, second = 2 * n > CNN__V ? CNN__V : 0;
    const CNN__MASK u = CNN__LANE_MASK(most), v = CNN__LANE_MASK(n < CNN__V ? 2 * n - most : 0);
    const float *const end = y + (size_t)c * (size_t)p->oh * (size_t)n;
    for (; c > 0; c--, x += (size_t)(p->h - 2 * p->oh) * w)
        for (int oh = 0; oh < p->oh; oh++, x += 2 * w, y += n) {
            for (int i = 0; i + CNN__V <= n; i += CNN__V)
                CNN__STORE(y + i, CNN__FN(cnn__pool_pairs_at)(x + 2 * i, w, max));
            if (n > CNN__V && n % CNN__V > 0) {
                const int i = n - CNN__V;
                CNN__STORE(y + i, CNN__FN(cnn__pool_pairs_at)(x + 2 * i, w, max));
            } else if (n < CNN__V) {
                const CNN__VEC few = CNN__FN(cnn__pool_pair)(
                    CNN__LOAD_MASKED(x, u), CNN__LOAD_MASKED(x + second, v), CNN__LOAD_MASKED(x + w, u),
                    CNN__LOAD_MASKED(x + w + second, v), max);
                CNN__STORE_UP_TO(y, few, end - y < CNN__V ? n : CNN__V);
            }
        }
}

/* 2*n elements of a row, n <= V: element 2*i is lane i of even, the next that of odd. */
CNN__INLINE void CNN__FN(cnn__spread)(float *x, int n, CNN__VEC even, CNN__VEC odd) {
    const CNN__VEC low = CNN__ZIP_LOW(even, odd), high = CNN__ZIP_HIGH(even, odd);
    if (n == CNN__V) {
        CNN__STORE(x, low);
        CNN__STORE(x + CNN__V, high);
        return;
    }
    CNN__STORE_UP_TO(x, low, 2 * n < CNN__V ? 2 * n : CNN__V);
    if (2 * n > CNN__V)
        CNN__STORE_N(x + CNN__V, high, 2 * n - CNN__V);
}

/* The inverse of pool_pairs; x and y for max alone, whose rule is that of maxpool_backward. */
CNN__INLINE void CNN__FN(cnn__pool_pairs_backward)(const cnn__pool *p, const float *x, const float *y,
                                                   const float *dy, float *dx, int c, const int max) {
    const size_t w = (size_t)p->w;
    const int r = p->ow < CNN__V ? p->ow : CNN__V, most = 2 * r < CNN__V ? 2 * r : CNN__V;
    size_t row = 0;
    for (; c > 0; c--, row += (size_t)(p->h - 2 * p->oh) * w)
        for (int oh = 0; oh < p->oh; oh++, row += 2 * w, y += p->ow, dy += p->ow)
            for (int next = 0; next < p->ow; next += CNN__V) {
                /* the last vector whole if it can be */
                const int ow = next + CNN__V > p->ow && p->ow > CNN__V ? p->ow - CNN__V : next;
                const size_t at = row + 2 * (size_t)ow;
                CNN__VEC rest = CNN__LOAD_UP_TO(dy + ow, r), even = rest * CNN__SET1(0.25f), odd = even;
                const CNN__VEC top = max ? CNN__LOAD_UP_TO(y + ow, r) : rest;
                for (int i = 0; i < 2; i++) {
                    const size_t o = at + (size_t)i * w;
                    if (max) {
                        const CNN__VEC u = CNN__LOAD_UP_TO(x + o, most);
                        const CNN__VEC v =
                            2 * r > CNN__V ? CNN__LOAD_UP_TO(x + o + CNN__V, 2 * r - CNN__V) : u;
                        CNN__VEC kept = CNN__IF_ABOVE(top, CNN__EVEN(u, v), rest);
                        even = rest - kept;
                        rest = CNN__IF_ABOVE(top, CNN__ODD(u, v), kept);
                        odd = kept - rest;
                    }
                    CNN__FN(cnn__spread)(dx + o, r, even, odd);
                }
            }
}

/* indices, or NULL: of planes. */
static void CNN__FN(cnn__maxpool)(const cnn__pool *p, const float *x, float *y, int *indices, int c,
                                  int cell) {
    const int pairs = CNN__V > 1 && p->tiled && p->kh == 2 && p->kw == 2;
    if (cell == 1 && pairs && !indices) {
        CNN__FN(cnn__pool_pairs)(p, x, y, c, 1);
        return;
    }
    if (cell == 1) {
        CNN__FN(cnn__maxpool_planes)(p, x, y, indices, c);
        return;
    }
    if (pairs) {
        CNN__FN(cnn__pool_tiled)(p, x, y, c, cell, 1);
        return;
    }
    for (; c > 0; c--, x += (size_t)p->h * (size_t)p->w * (size_t)cell)
        for (int oh = 0; oh < p->oh; oh++) {
            const cnn__window a = cnn__window_at(oh, p->h, p->kh, p->sh, p->ph, p->dh, 0);
            for (int ow = 0; ow < p->ow; ow++, y += cell) {
                const cnn__window b = cnn__window_at(ow, p->w, p->kw, p->sw, p->pw, p->dw, 0);
                for (int r = 0; r < cell; r += CNN__V) {
                    CNN__VEC best = CNN__SET1(-INFINITY);
                    for (int i = a.first; i < a.end; i += p->dh)
                        for (int j = b.first; j < b.end; j += p->dw)
                            best = CNN__MAX_NAN(
                                best,
                                CNN__LOAD(x + ((size_t)i * (size_t)p->w + (size_t)j) * (size_t)cell + r));
                    CNN__STORE(y + r, best);
                }
            }
        }
}

/* Needs no indices: the gradient goes to the first element of the window that is not below the maximum.
   `rest` is what has not been given away yet. */
static void CNN__FN(cnn__maxpool_backward)(const cnn__pool *p, const float *x, const float *y,
                                           const float *dy, float *dx, int c, int cell) {
    const size_t plane = (size_t)p->h * (size_t)p->w * (size_t)cell;
    const int pairs = CNN__V > 1 && p->tiled && p->kh == 2 && p->kw == 2;
    if (!pairs || !p->covers)
        memset(dx, 0, (size_t)c * plane * sizeof(float));
    if (pairs && cell == 1) {
        CNN__FN(cnn__pool_pairs_backward)(p, x, y, dy, dx, c, 1);
        return;
    }
    if (pairs) {
        CNN__FN(cnn__maxpool_tiled_backward)(p, x, y, dy, dx, c, cell);
        return;
    }
    for (; c > 0; c--, x += plane, dx += plane)
        for (int oh = 0; oh < p->oh; oh++) {
            const cnn__window a = cnn__window_at(oh, p->h, p->kh, p->sh, p->ph, p->dh, 0);
            for (int ow = 0; ow < p->ow; ow++, y += cell, dy += cell) {
                const cnn__window b = cnn__window_at(ow, p->w, p->kw, p->sw, p->pw, p->dw, 0);
                for (int r = 0; r < cell; r += CNN__V) {
                    const CNN__VEC top = CNN__LOAD(y + r);
                    CNN__VEC rest = CNN__LOAD(dy + r);
                    for (int i = a.first; i < a.end; i += p->dh)
                        for (int j = b.first; j < b.end; j += p->dw) {
                            const size_t o =
                                ((size_t)i * (size_t)p->w + (size_t)j) * (size_t)cell + (size_t)r;
                            const CNN__VEC kept = CNN__IF_ABOVE(top, CNN__LOAD(x + o), rest);
                            CNN__STORE(dx + o, CNN__LOAD(dx + o) + (rest - kept));
                            rest = kept;
                        }
                }
            }
        }
}

static void CNN__FN(cnn__avgpool)(const cnn__pool *p, const float *x, float *y, int c, int cell) {
    if (cell == 1 && CNN__V > 1) { /* see cnn__pool_kernels */
        CNN__FN(cnn__pool_pairs)(p, x, y, c, 0);
        return;
    }
    if (CNN__V > 1 && p->tiled && p->kh == 2 && p->kw == 2) {
        CNN__FN(cnn__pool_tiled)(p, x, y, c, cell, 0);
        return;
    }
    for (; c > 0; c--, x += (size_t)p->h * (size_t)p->w * (size_t)cell)
        for (int oh = 0; oh < p->oh; oh++) {
            const cnn__window a = cnn__window_at(oh, p->h, p->kh, p->sh, p->ph, 1, p->exclude_padding);
            for (int ow = 0; ow < p->ow; ow++, y += cell) {
                const cnn__window b = cnn__window_at(ow, p->w, p->kw, p->sw, p->pw, 1, p->exclude_padding);
                const CNN__VEC scale = CNN__SET1(1.0f / ((float)a.counted * (float)b.counted));
                for (int r = 0; r < cell; r += CNN__V) {
                    CNN__VEC s = CNN__SET1(0.0f);
                    for (int i = a.first; i < a.end; i++)
                        for (int j = b.first; j < b.end; j++)
                            s = s + CNN__LOAD(x + ((size_t)i * (size_t)p->w + (size_t)j) * (size_t)cell + r);
                    CNN__STORE(y + r, s * scale);
                }
            }
        }
}

static void CNN__FN(cnn__avgpool_backward)(const cnn__pool *p, const float *dy, float *dx, int c, int cell) {
    const int pairs = CNN__V > 1 && p->tiled && p->kh == 2 && p->kw == 2;
    if (!pairs || !p->covers)
        memset(dx, 0, (size_t)c * (size_t)p->h * (size_t)p->w * (size_t)cell * sizeof(float));
    if (pairs && cell == 1) {
        CNN__FN(cnn__pool_pairs_backward)(p, NULL, dy, dy, dx, c, 0);
        return;
    }
    if (pairs) {
        CNN__FN(cnn__avgpool_tiled_backward)(p, dy, dx, c, cell);
        return;
    }
    for (; c > 0; c--, dx += (size_t)p->h * (size_t)p->w * (size_t)cell)
        for (int oh = 0; oh < p->oh; oh++) {
            const cnn__window a = cnn__window_at(oh, p->h, p->kh, p->sh, p->ph, 1, p->exclude_padding);
            for (int ow = 0; ow < p->ow; ow++, dy += cell) {
                const cnn__window b = cnn__window_at(ow, p->w, p->kw, p->sw, p->pw, 1, p->exclude_padding);
                const CNN__VEC scale = CNN__SET1(1.0f / ((float)a.counted * (float)b.counted));
                for (int r = 0; r < cell; r += CNN__V) {
                    const CNN__VEC share = CNN__LOAD(dy + r) * scale;
                    for (int i = a.first; i < a.end; i++)
                        for (int j = b.first; j < b.end; j++) {
                            float *d = dx + ((size_t)i * (size_t)p->w + (size_t)j) * (size_t)cell + r;
                            CNN__STORE(d, CNN__LOAD(d) + share);
                        }
                }
            }
        }
}

#endif

static const unsigned char CNN__FN(cnn__tile_sizes)[] = CNN__TILE_SIZES;
static const cnn__kernels CNN__FN(cnn__kernels) = {CNN__NAME,
                                                   CNN__V,
                                                   CNN__BITS,
                                                   CNN__PANEL,
                                                   CNN__WIDE,
                                                   CNN__FN(cnn__tile_sizes),
                                                   CNN__UNLESS_LEAN(cnn__wino_input),
                                                   CNN__UNLESS_LEAN(cnn__wino_weight),
                                                   CNN__UNLESS_LEAN(cnn__wino_tiles),
                                                   CNN__UNLESS_LEAN(cnn__wino_output),
                                                   CNN__UNLESS_LEAN(cnn__wino_cells),
                                                   CNN__UNLESS_LEAN(cnn__wino_gradient),
                                                   CNN__UNLESS_LEAN(cnn__wino_kernel),
                                                   CNN__OWN(cnn__tile_call),
                                                   CNN__UNLESS_LEAN(cnn__gather),
                                                   CNN__OWN(cnn__dot_run),
                                                   CNN__OWN(cnn__pixels),
                                                   CNN__OWN(cnn__matrix_vector),
                                                   CNN__OWN(cnn__depthwise),
                                                   CNN__OWN(cnn__depthwise_dot),
                                                   CNN__OWN(cnn__fold),
                                                   CNN__OWN(cnn__copy),
                                                   CNN__OWN(cnn__every),
                                                   CNN__OWN(cnn__sum),
                                                   CNN__OWN(cnn__add_to),
                                                   CNN__OWN(cnn__sigmoid),
                                                   CNN__OWN(cnn__tanh),
                                                   CNN__OWN(cnn__relu),
                                                   CNN__OWN(cnn__sigmoid_backward),
                                                   CNN__OWN(cnn__tanh_backward),
                                                   CNN__OWN(cnn__relu_backward),
                                                   CNN__BORROWED(cnn__softmax),
                                                   CNN__BORROWED(cnn__softmax_backward),
                                                   CNN__BORROWED(cnn__maxpool),
                                                   CNN__BORROWED(cnn__maxpool_backward),
                                                   CNN__BORROWED(cnn__avgpool),
                                                   CNN__BORROWED(cnn__avgpool_backward),
                                                   CNN__OWN(cnn__pooled_backward),
                                                   CNN__OWN(cnn__sgd),
                                                   CNN__OWN(cnn__from_bytes)};

CNN__OPTIMIZE_END
#undef CNN__INSTANCE
#undef CNN__LEAN
#undef CNN__LENDER
#undef CNN__BORROWED
#undef CNN__BITS
#undef CNN__WHOLE
#undef CNN__OWN
#undef CNN__NAME
#undef CNN__V
#undef CNN__VEC
#undef CNN__REGISTERS
#undef CNN__LOAD
#undef CNN__STORE
#undef CNN__LOAD_N
#undef CNN__STORE_N
#undef CNN__SET1
#undef CNN__FMA
#undef CNN__SUM
#undef CNN__MAX
#undef CNN__MIN
#undef CNN__MAX_NAN
#undef CNN__IF_ABOVE
#undef CNN__SCALE
#undef CNN__RECIPROCAL
#undef CNN__ROUNDED
#undef CNN__LOAD_BYTES
#undef CNN__EVEN
#undef CNN__ODD
#undef CNN__ZIP_LOW
#undef CNN__ZIP_HIGH
#undef CNN__QUADS
#undef CNN__QUADS_LOW
#undef CNN__QUADS_HIGH
#undef CNN__FN
#undef CNN__JOIN
#undef CNN__JOIN_
#undef CNN__TILES
#undef CNN__TILE_SIZES
#undef CNN__UNLESS_LEAN
#undef CNN__PASS_UNROLL
#undef CNN__PANEL
#undef CNN__WIDE
#undef CNN__ADD_PRODUCT
#undef CNN__FREE_MASKS
#undef CNN__MASK
#undef CNN__LANE_MASK
#undef CNN__LOAD_MASKED
#undef CNN__LOAD_UP_TO
#undef CNN__STORE_UP_TO
#undef CNN__DOT_TILES
#undef CNN__PIXELS_VECTORS
#undef CNN__PIXELS_LEAST
#undef CNN__PIXELS_SOME
#undef CNN__PIXELS_MOST
#endif /* CNN__INSTANCE */

#if defined(CNN_IMPLEMENTATION) && !defined(CNN__IMPLEMENTATION_ENDED) && !defined(CNN__INSTANCE)

#define CNN__IMPLEMENTATION_ENDED

/* ---- >>dispatch -------------------------------------------------------------------------------------

   One stretch an instruction set: the operations, then the header itself for the kernels. To add one: copy a
   stretch, and name it in cnn__supported. Compilers need no flags: the functions within push and pop are
   compiled for the instruction set named there. */

#if CNN__X86 && defined(__clang__)
#define CNN__TARGET_BEGIN_AVX512                                                                             \
    _Pragma("clang attribute push(__attribute__((target(\"avx512f,avx2,fma\"))), apply_to = function)")
#define CNN__TARGET_BEGIN_AVX2                                                                               \
    _Pragma("clang attribute push(__attribute__((target(\"avx2,fma\"))), apply_to = function)")
#define CNN__TARGET_END _Pragma("clang attribute pop")
#elif CNN__X86
#define CNN__TARGET_BEGIN_AVX512 _Pragma("GCC push_options") _Pragma("GCC target(\"avx512f,avx2,fma\")")
#define CNN__TARGET_BEGIN_AVX2   _Pragma("GCC push_options") _Pragma("GCC target(\"avx2,fma\")")
#define CNN__TARGET_END          _Pragma("GCC pop_options")
#endif
#ifdef CNN__AVX512_SHIM /* by tests/avx512_shim.h */
#undef CNN__TARGET_BEGIN_AVX512
#define CNN__TARGET_BEGIN_AVX512 CNN__TARGET_BEGIN_AVX2
#endif

#if CNN__X86
CNN__TARGET_BEGIN_AVX2
CNN__INLINE __m256i cnn__lane_mask8(int n) {
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
CNN__INLINE __m256 cnn__lanes8(__m256 v) { /* the middle quarters change places */
    return _mm256_castpd_ps(_mm256_permute4x64_pd(_mm256_castps_pd(v), 0xd8));
}
CNN__INLINE float cnn__sum8(__m256 v) {
    __m128 s = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    s = _mm_add_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
}
#define CNN__INSTANCE               avx2
#define CNN__NAME                   "avx2"
#define CNN__V                      8
#define CNN__VEC                    __m256
#define CNN__REGISTERS              16
#define CNN__LOAD(p)                _mm256_loadu_ps(p)
#define CNN__STORE(p, v)            _mm256_storeu_ps(p, v)
#define CNN__MASK                   __m256i
#define CNN__LANE_MASK(n)           cnn__lane_mask8(n)
#define CNN__LOAD_MASKED(p, m)      _mm256_maskload_ps(p, m)
#define CNN__LOAD_N(p, n)           _mm256_maskload_ps(p, cnn__lane_mask8(n))
#define CNN__STORE_N(p, v, n)       _mm256_maskstore_ps(p, cnn__lane_mask8(n), v)
#define CNN__SET1(f)                _mm256_set1_ps(f)
#define CNN__FMA(a, b, c)           _mm256_fmadd_ps(a, b, c)
#define CNN__ADD_PRODUCT(sum, a, b) __asm__("vfmadd231ps %2, %1, %0" : "+x"(sum) : "x"(a), "x"(b))
#define CNN__SUM(v)                 cnn__sum8(v)
#define CNN__MAX(a, b)              _mm256_max_ps(a, b)
#define CNN__MIN(a, b)              _mm256_min_ps(a, b)
#define CNN__MAX_NAN(a, b)          _mm256_blendv_ps(_mm256_max_ps(a, b), a, _mm256_cmp_ps(a, a, _CMP_UNORD_Q))
#define CNN__IF_ABOVE(a, b, v)      _mm256_and_ps(_mm256_cmp_ps(a, b, _CMP_NLE_UQ), v)
#define CNN__SCALE(v, t)                                                                                     \
    _mm256_castsi256_ps(                                                                                     \
        _mm256_add_epi32(_mm256_castps_si256(v), _mm256_slli_epi32(_mm256_castps_si256(t), 23)))
#define CNN__RECIPROCAL(v)  _mm256_div_ps(_mm256_set1_ps(1.0f), v)
#define CNN__EVEN(a, b)     cnn__lanes8(_mm256_shuffle_ps(a, b, 0x88))
#define CNN__ODD(a, b)      cnn__lanes8(_mm256_shuffle_ps(a, b, 0xdd))
#define CNN__ZIP_LOW(a, b)  _mm256_permute2f128_ps(_mm256_unpacklo_ps(a, b), _mm256_unpackhi_ps(a, b), 0x20)
#define CNN__ZIP_HIGH(a, b) _mm256_permute2f128_ps(_mm256_unpacklo_ps(a, b), _mm256_unpackhi_ps(a, b), 0x31)
#define CNN__QUADS(p, at)                                                                                    \
    _mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps((p) + (at)[0])), _mm_loadu_ps((p) + (at)[4]), 1)
#define CNN__QUADS_LOW(a, b)  _mm256_unpacklo_ps(a, b)
#define CNN__QUADS_HIGH(a, b) _mm256_unpackhi_ps(a, b)
#define CNN__LOAD_BYTES(p)                                                                                   \
    _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)(const void *)(p))))
#include "cnn.h"
CNN__TARGET_END

/* Where an intrinsic has a form without a mask, GCC gives it an undefined operand, and g++ warns of it in its
   own header: hence all lanes masked in, which costs nothing. */
CNN__TARGET_BEGIN_AVX512
CNN__INLINE float cnn__sum16(__m512 v) {
    const __m256 upper = _mm256_castpd_ps(_mm512_maskz_extractf64x4_pd(0xf, _mm512_castps_pd(v), 1));
    const __m256 lower = _mm256_castpd_ps(_mm512_maskz_extractf64x4_pd(0xf, _mm512_castps_pd(v), 0));
    const __m256 half = _mm256_add_ps(lower, upper);
    __m128 s = _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1));
    s = _mm_add_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
}
CNN__INLINE __m512 cnn__lanes16(__m512 a, __m512 b, int first) {
    const __m512i lane = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
    return _mm512_permutex2var_ps(a, _mm512_add_epi32(lane, _mm512_set1_epi32(first)), b);
}
CNN__INLINE __m512 cnn__zip16(__m512 a, __m512 b, int first) {
    const __m512i lane = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
    return _mm512_permutex2var_ps(a, _mm512_add_epi32(lane, _mm512_set1_epi32(first)), b);
}
CNN__INLINE __m512 cnn__quads16(const float *p, const ptrdiff_t *at) {
    const __m512 a = _mm512_castps128_ps512(_mm_loadu_ps(p + at[0]));
    const __m512 b = _mm512_maskz_insertf32x4((__mmask16)0xffff, a, _mm_loadu_ps(p + at[4]), 1);
    const __m512 c = _mm512_maskz_insertf32x4((__mmask16)0xffff, b, _mm_loadu_ps(p + at[8]), 2);
    return _mm512_maskz_insertf32x4((__mmask16)0xffff, c, _mm_loadu_ps(p + at[12]), 3);
}
/* From 14 right bits, one step of Newton's method; a division takes longer than the whole sigmoid. */
CNN__INLINE __m512 cnn__reciprocal16(__m512 v) {
    const __m512 r = _mm512_maskz_rcp14_ps((__mmask16)0xffff, v);
    return _mm512_fmadd_ps(r, _mm512_fnmadd_ps(v, r, _mm512_set1_ps(1.0f)), r);
}
#define CNN__INSTANCE          avx512
#define CNN__LENDER            avx2
#define CNN__NAME              "avx512"
#define CNN__V                 16
#define CNN__VEC               __m512
#define CNN__REGISTERS         32
#define CNN__FREE_MASKS        1
#define CNN__MASK              __mmask16
#define CNN__LOAD_MASKED(p, m) _mm512_maskz_loadu_ps(m, p)
#define CNN__LANE_MASK(n)      ((__mmask16)((1u << (n)) - 1u))
#define CNN__LOAD(p)           _mm512_loadu_ps(p)
#define CNN__STORE(p, v)       _mm512_storeu_ps(p, v)
#define CNN__LOAD_N(p, n)      _mm512_maskz_loadu_ps(CNN__LANE_MASK(n), p)
#define CNN__STORE_N(p, v, n)  _mm512_mask_storeu_ps(p, CNN__LANE_MASK(n), v)
#define CNN__SET1(f)           _mm512_set1_ps(f)
#define CNN__FMA(a, b, c)      _mm512_fmadd_ps(a, b, c)
#ifndef CNN__AVX512_SHIM
#define CNN__ADD_PRODUCT(sum, a, b) __asm__("vfmadd231ps %2, %1, %0" : "+v"(sum) : "v"(a), "v"(b))
#endif
#define CNN__SUM(v)            cnn__sum16(v)
#define CNN__MAX(a, b)         _mm512_maskz_max_ps(CNN__LANE_MASK(16), a, b)
#define CNN__MIN(a, b)         _mm512_maskz_min_ps(CNN__LANE_MASK(16), a, b)
#define CNN__MAX_NAN(a, b)     _mm512_mask_mov_ps(CNN__MAX(a, b), _mm512_cmp_ps_mask(a, a, _CMP_UNORD_Q), a)
#define CNN__IF_ABOVE(a, b, v) _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(a, b, _CMP_NLE_UQ), v)
#define CNN__SCALE(v, t)                                                                                     \
    _mm512_castsi512_ps(_mm512_add_epi32(                                                                    \
        _mm512_castps_si512(v), _mm512_maskz_slli_epi32(CNN__LANE_MASK(16), _mm512_castps_si512(t), 23)))
#define CNN__RECIPROCAL(v)    cnn__reciprocal16(v)
#define CNN__EVEN(a, b)       cnn__lanes16(a, b, 0)
#define CNN__ODD(a, b)        cnn__lanes16(a, b, 1)
#define CNN__ZIP_LOW(a, b)    cnn__zip16(a, b, 0)
#define CNN__ZIP_HIGH(a, b)   cnn__zip16(a, b, 8)
#define CNN__QUADS(p, at)     cnn__quads16(p, at)
#define CNN__QUADS_LOW(a, b)  _mm512_maskz_unpacklo_ps(CNN__LANE_MASK(16), a, b)
#define CNN__QUADS_HIGH(a, b) _mm512_maskz_unpackhi_ps(CNN__LANE_MASK(16), a, b)
#define CNN__LOAD_BYTES(p)                                                                                   \
    _mm512_maskz_cvtepi32_ps(                                                                                \
        CNN__LANE_MASK(16),                                                                                  \
        _mm512_maskz_cvtepu8_epi32(CNN__LANE_MASK(16), _mm_loadu_si128((const __m128i *)(const void *)(p))))
#include "cnn.h"
CNN__TARGET_END
#endif /* CNN__X86 */

/* Plain floats: compilers without vector types, pooling in planes, and what lean instances borrow. */
CNN__INLINE float cnn__scale1(float v, float t) {
    uint32_t a = 0, b = 0;
    memcpy(&a, &v, sizeof a);
    memcpy(&b, &t, sizeof b);
    a += b << 23;
    memcpy(&v, &a, sizeof v);
    return v;
}
#if FLT_EVAL_METHOD != 0
CNN__INLINE float cnn__rounded1(float v) {
    volatile float rounded = v;
    return rounded;
}
#define CNN__ROUNDED(v) cnn__rounded1(v)
#endif
#define CNN__INSTANCE          scalar
#define CNN__LEAN              1
#define CNN__NAME              "scalar"
#define CNN__V                 1
#define CNN__VEC               float
#define CNN__REGISTERS         16
#define CNN__LOAD(p)           (*(p))
#define CNN__STORE(p, v)       (*(p) = (v))
#define CNN__MASK              int
#define CNN__LANE_MASK(n)      (n)
#define CNN__LOAD_MASKED(p, m) ((void)(m), *(p))
#define CNN__LOAD_N(p, n)      ((void)(n), *(p))
#define CNN__STORE_N(p, v, n)  ((void)(n), *(p) = (v))
#define CNN__SET1(f)           (f)
#define CNN__FMA(a, b, c)      ((a) * (b) + (c))
#define CNN__SUM(v)            (v)
#define CNN__MAX(a, b)         ((a) > (b) ? (a) : (b))
#define CNN__MIN(a, b)         ((a) < (b) ? (a) : (b))
#define CNN__MAX_NAN(a, b)     ((a) > (b) || (a) != (a) ? (a) : (b))
#define CNN__IF_ABOVE(a, b, v) ((a) <= (b) ? 0.0f : (v))
#define CNN__SCALE(v, t)       cnn__scale1(v, t)
#define CNN__RECIPROCAL(v)     (1.0f / (v))
#define CNN__EVEN(a, b)        (a)
#define CNN__ODD(a, b)         (b)
#define CNN__ZIP_LOW(a, b)     (a)
#define CNN__ZIP_HIGH(a, b)    (b)
#define CNN__LOAD_BYTES(p)     ((float)*(p))
#include "cnn.h"

#if CNN__VECTORS
/* What every GCC and Clang has: vectors of 16 bytes, which become SSE2, NEON or plain code. */
typedef float cnn__vec4 __attribute__((vector_size(16)));
typedef int32_t cnn__ivec4 __attribute__((vector_size(16)));
typedef uint32_t cnn__uvec4 __attribute__((vector_size(16)));

CNN__INLINE cnn__vec4 cnn__load4(const float *p) {
    cnn__vec4 v;
    memcpy(&v, p, sizeof v);
    return v;
}
CNN__INLINE void cnn__store4(float *p, cnn__vec4 v) {
    memcpy(p, &v, sizeof v);
}
CNN__COLD static cnn__vec4 cnn__load4_n(const float *p, int n) {
    const cnn__vec4 v = {p[0], n > 1 ? p[1] : 0.0f, n > 2 ? p[2] : 0.0f, 0.0f};
    return v;
}
CNN__INLINE cnn__vec4 cnn__load_bytes4(const unsigned char *p) {
    const cnn__vec4 v = {(float)p[0], (float)p[1], (float)p[2], (float)p[3]};
    return v;
}
CNN__COLD static void cnn__store4_n(float *p, cnn__vec4 v, int n) {
    for (int i = 0; i < n; i++)
        p[i] = v[i];
}
CNN__INLINE cnn__vec4 cnn__make4(float a, float b, float c, float d) {
    const cnn__vec4 v = {a, b, c, d};
    return v;
}
CNN__INLINE cnn__vec4 cnn__set4(float f) {
    const cnn__vec4 v = {f, f, f, f};
    return v;
}
CNN__INLINE cnn__vec4 cnn__select4(cnn__ivec4 mask, cnn__vec4 a, cnn__vec4 b) { /* mask ? a : b */
    return (cnn__vec4)((mask & (cnn__ivec4)a) | (~mask & (cnn__ivec4)b));
}
#define CNN__INSTANCE vec4
#if CNN__X86
#define CNN__LEAN      1
#define CNN__LENDER    scalar
#define CNN__NAME      "sse2"
#define CNN__REGISTERS 16
#elif CNN__NEON
#define CNN__NAME      "neon"
#define CNN__REGISTERS 32
#else
#define CNN__NAME      "vector"
#define CNN__REGISTERS 16
#endif
#define CNN__V                 4
#define CNN__VEC               cnn__vec4
#define CNN__LOAD(p)           cnn__load4(p)
#define CNN__STORE(p, v)       cnn__store4(p, v)
#define CNN__MASK              int
#define CNN__LANE_MASK(n)      (n)
#define CNN__LOAD_MASKED(p, m) ((m) == 4 ? cnn__load4(p) : cnn__load4_n(p, m))
#define CNN__LOAD_N(p, n)      cnn__load4_n(p, n)
#define CNN__STORE_N(p, v, n)  cnn__store4_n(p, v, n)
#define CNN__SET1(f)           cnn__set4(f)
#if CNN__NEON
#define CNN__FMA(a, b, c) ((cnn__vec4)vfmaq_f32((float32x4_t)(c), (float32x4_t)(a), (float32x4_t)(b)))
#else
#define CNN__FMA(a, b, c) ((a) * (b) + (c))
#endif
#define CNN__SUM(v)            (((v)[0] + (v)[2]) + ((v)[1] + (v)[3]))
#define CNN__MAX(a, b)         cnn__select4((cnn__ivec4)((a) > (b)), a, b)
#define CNN__MIN(a, b)         cnn__select4((cnn__ivec4)((a) < (b)), a, b)
#define CNN__MAX_NAN(a, b)     cnn__select4((cnn__ivec4)((a) > (b)) | (cnn__ivec4)((a) != (a)), a, b)
#define CNN__IF_ABOVE(a, b, v) ((cnn__vec4)(~(cnn__ivec4)((a) <= (b)) & (cnn__ivec4)(v)))
#define CNN__SCALE(v, t)       ((cnn__vec4)((cnn__uvec4)(v) + ((cnn__uvec4)(t) << 23)))
#define CNN__RECIPROCAL(v)     (cnn__set4(1.0f) / (v))
#define CNN__EVEN(a, b)        cnn__make4((a)[0], (a)[2], (b)[0], (b)[2])
#define CNN__ODD(a, b)         cnn__make4((a)[1], (a)[3], (b)[1], (b)[3])
#define CNN__ZIP_LOW(a, b)     cnn__make4((a)[0], (b)[0], (a)[1], (b)[1])
#define CNN__ZIP_HIGH(a, b)    cnn__make4((a)[2], (b)[2], (a)[3], (b)[3])
#define CNN__QUADS(p, at)      cnn__load4((p) + (at)[0])
#define CNN__QUADS_LOW(a, b)   CNN__ZIP_LOW(a, b)
#define CNN__QUADS_HIGH(a, b)  CNN__ZIP_HIGH(a, b)
#define CNN__LOAD_BYTES(p)     cnn__load_bytes4(p)
#include "cnn.h"
#endif /* CNN__VECTORS */

/* Best first. */
static const cnn__kernels *const cnn__instances[] = {
#if CNN__X86
    &cnn__kernels_avx512, &cnn__kernels_avx2,
#endif
#if CNN__VECTORS
    &cnn__kernels_vec4
#else
    &cnn__kernels_scalar
#endif
};

static int cnn__supported(const cnn__kernels *k) {
#if CNN__X86
    if (k == &cnn__kernels_avx512)
        return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx2") &&
               __builtin_cpu_supports("fma");
    if (k == &cnn__kernels_avx2)
        return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
#endif
    (void)k;
    return 1;
}

/* The only state of the library: set on first use, always to the same value, except by tests. */
static const cnn__kernels *volatile cnn__chosen;

/* Tests choose an instruction set by its name, NULL for the best again; 0: not in this build or machine. */
CNN__MAYBE static int cnn__select_isa(const char *name) {
    for (size_t i = 0; i < sizeof cnn__instances / sizeof cnn__instances[0]; i++)
        if ((!name || !strcmp(name, cnn__instances[i]->name)) && cnn__supported(cnn__instances[i])) {
            cnn__chosen = cnn__instances[i];
            return 1;
        }
    return 0;
}

CNN__OUTLINE static const cnn__kernels *cnn__k(void) {
    if (!cnn__chosen)
        cnn__select_isa(NULL);
    return cnn__chosen;
}

CNN_API const char *cnn_instruction_set(void) {
    return cnn__k()->name;
}

/* ---- products, by the tiles of an instruction set ----------------------------------------------------- */

/* Vectors of the next tile of mr rows where `left` are left: the most there are, but rather two equal parts
   than a rest. */
static int cnn__tile_vectors(const cnn__kernels *k, int mr, int left) {
    const int has = k->sizes[mr], half = (left + 1) / 2;
    int most = left < 8 ? left : 8;
    while (!(has >> most & 1))
        most--;
    return left > most && left < 2 * most && has >> half & 1 ? half : most;
}

/* Vectors v0 to v1 - 1, steps k0 to k1 - 1 of a product, whose last vector of all has `last` lanes. */
static void cnn__product_part(const cnn__kernels *k, const cnn__product *a, int v0, int v1, int k0, int k1,
                              int last) {
    const int whole = (int)(a->n >> k->bits), end = a->slack || v1 < whole ? v1 : whole;
    const int *tap = a->tap + (k0 - a->first);
    cnn__tile t;
    int mr = 0, nv = 0;
    t.steps = k1 - k0;
    t.panel = a->panel;
    t.wk = a->wk;
    t.ym = a->ym;
    t.start = k0 > a->first ? CNN__ACCUMULATE : a->start;
    t.bias = NULL;
    t.ahead = a->ahead;
    t.packed = a->packed && !a->wk;
    for (int m = 0; m < a->rows; m += mr) {
        mr = cnn__panel_rows(k->panel, a->rows - m);
        t.w = a->w + m * a->panel + k0 * (a->wk ? a->wk : mr);
        if (t.start == CNN__BIAS)
            t.bias = a->bias + m;
        if (k->panel == 8 && v1 - v0 == 1 && a->rows - m >= 24 && cnn__panel_rows(8, a->rows - m - 16) == 8)
            mr = 24;
        for (int v = v0; v < v1; v += nv * t.count) {
            nv = v < end && mr < 24 ? cnn__tile_vectors(k, mr, end - v) : 1;
            const int left = cnn__min(end, whole) - v, rest = left % nv;
            t.copy = a->from && m == 0 ? a->to + (v << k->bits) : NULL;
            t.tap = t.copy ? a->from_tap : tap;
            t.x = (t.copy ? a->from : a->x) + (v << k->bits);
            t.count = t.copy ? 1 : cnn__max(left / nv - (rest > 0), 1);
            t.y = a->y + m * a->ym + (v << k->bits);
            t.last = v + nv <= whole ? k->lanes : last;
            k->tile(&t, mr, nv);
        }
    }
}

/* Columns v0 to v1 - 1, steps k0 to k1 - 1, with x gathered in the first-level cache and aligned, for all rows
   to use: by the first panel's tiles, whose arithmetic hides it, or first, where not all tiles are the usual
   ones. tap: those of gathered steps. */
static void cnn__product_gathered(const cnn__kernels *k, const cnn__product *a, int v0, int v1, int k0,
                                  int k1, int last, float *x, const int *tap) {
    const int whole = (int)(a->n >> k->bits);
    cnn__product part = *a;
    part.x = part.to = x;
    if (v1 <= whole && (v1 - v0) % k->wide == 0) {
        part.from = a->x + (v0 << k->bits);
        part.from_tap = a->tap + (k0 - a->first);
        part.ahead = v1 < whole ? (v1 - v0) << k->bits : 0;
    } else
        k->gather(a, v0, v1, k0, k1, a->slack || v1 <= whole ? k->lanes : last, x);
    part.tap = tap;
    part.first = k0;
    part.steps = k1 - k0;
    part.y = a->y + (v0 << k->bits);
    part.n = v1 <= whole ? (size_t)(v1 - v0) << k->bits : a->n - ((size_t)v0 << k->bits);
    part.start = k0 > a->first ? CNN__ACCUMULATE : a->start;
    part.slack = 1;
    part.packed = 1;
    cnn__product_part(k, &part, 0, v1 - v0, k0, k1, last);
}

/* Blocked for the caches: CNN__CHUNK steps at a time, for them CNN__COLUMNS vectors at a time, and of y so
   much at a time that it stays in the second-level cache while the chunks pass by. */
static void cnn__product_run(const cnn__kernels *k, const cnn__product *a) {
    const int rest = (int)(a->n & (size_t)(k->lanes - 1)), vectors = (int)(a->n >> k->bits) + (rest > 0);
    const int gather = k->gather && a->gather && a->rows >= CNN__GATHER_ROWS && a->steps > 1;
    const int columns = gather ? CNN__GATHER >> k->bits : CNN__COLUMNS, last = rest ? rest : k->lanes;
    const int unit = k->panel == 6 ? k->wide : 1; /* vectors that groups should not part */
    const int chunk = gather ? CNN__GATHER_STEPS : vectors > CNN__COLUMNS ? CNN__CHUNK * 3 / 2 : INT_MAX;
    if (!gather && vectors <= columns) { /* one block: no divisions, which many small ones feel */
        cnn__product_part(k, a, 0, vectors, a->first, a->first + a->steps, last);
        return;
    }
    const int chunks = a->steps > chunk ? (a->steps - 1) / (gather ? CNN__GATHER_STEPS : CNN__CHUNK) + 1 : 1;
    const int fit = (CNN__CACHE_FLOATS >> k->bits) / cnn__max(a->rows, 1);
    const int most = chunks == 1 ? vectors : fit > columns ? fit / columns * columns : columns;
    float x[CNN__GATHER_STEPS * CNN__GATHER + CNN__ALIGN / sizeof(float)];
    int tap[CNN__GATHER_STEPS];
    float *const aligned = x + (CNN__ALIGN - (uintptr_t)x % CNN__ALIGN) / sizeof(float);
    for (int i = 0; gather && i < CNN__GATHER_STEPS && i < a->steps; i++)
        tap[i] = i * CNN__GATHER;
    for (int s0 = 0; s0 < vectors; s0 += most) {
        const int s1 = vectors - s0 < most ? vectors : s0 + most, groups = (s1 - s0 - 1) / columns + 1;
        const int units = (s1 - s0 - 1) / unit + 1;
        for (int i = 0; i < chunks; i++) {
            const int k0 = a->first + (int)((int64_t)a->steps * i / chunks);
            const int k1 = a->first + (int)((int64_t)a->steps * (i + 1) / chunks);
            for (int g = 0; g < groups; g++) {
                const int v0 = s0 + (gather ? units * g / groups * unit : g * columns);
                const int v1 = cnn__min(s1, gather ? s0 + units * (g + 1) / groups * unit : v0 + columns);
                if (gather)
                    cnn__product_gathered(k, a, v0, v1, k0, k1, last, aligned, tap);
                else
                    cnn__product_part(k, a, v0, v1, k0, k1, last);
            }
        }
    }
}

CNN__OPTIMIZE_BRIEFLY

/* ---- operators of a device ----------------------------------------------------------------------------

   The public functions check their arguments and then call the active device's row of this table; a row is
   made from this list (see >>device), so a device without one of the operators does not compile. Networks and
   workspaces keep to the row that they were made under. */

struct cnn__conv;
struct cnn__fit;

#define CNN__OPERATORS(X)                                                                                    \
    X(void *, allocate, (size_t bytes)) /* zeroed, readable by the program, for cnn__free; or NULL */        \
    X(cnn_status, fill, (const char *where, float *to, size_t n, float value))                               \
    X(cnn_status, copy, (const char *where, float *to, const float *from, size_t n))                         \
    X(cnn_status, draw, (const char *where, float *to, size_t n, int normal, float scale, uint64_t seed))    \
    X(cnn_status, conv2d_forward,                                                                            \
      (const char *where, struct cnn__conv *v, const cnn_tensor *x, const cnn_tensor *weight,                \
       const cnn_tensor *bias, cnn_tensor *y))                                                               \
    X(cnn_status, conv2d_backward,                                                                           \
      (const char *where, struct cnn__conv *v, const cnn_tensor *x, const cnn_tensor *weight,                \
       const cnn_tensor *dy, cnn_tensor *dx, cnn_tensor *dw, cnn_tensor *db))                                \
    X(cnn_status, maxpool2d_forward,                                                                         \
      (const char *where, const cnn__pool *p, const cnn_tensor *x, cnn_tensor *y, int *indices))             \
    X(cnn_status, maxpool2d_backward,                                                                        \
      (const char *where, const cnn_tensor *dy, const int *indices, cnn_tensor *dx))                         \
    X(cnn_status, avgpool2d_forward,                                                                         \
      (const char *where, const cnn__pool *p, const cnn_tensor *x, cnn_tensor *y))                           \
    X(cnn_status, avgpool2d_backward,                                                                        \
      (const char *where, const cnn__pool *p, const cnn_tensor *dy, cnn_tensor *dx))                         \
    X(cnn_status, linear_forward,                                                                            \
      (const char *where, int in, const cnn_tensor *x, const cnn_tensor *weight, const cnn_tensor *bias,     \
       cnn_tensor *y))                                                                                       \
    X(cnn_status, linear_backward,                                                                           \
      (const char *where, int in, const cnn_tensor *x, const cnn_tensor *weight, const cnn_tensor *dy,       \
       cnn_tensor *dx, cnn_tensor *dw, cnn_tensor *db))                                                      \
    X(cnn_status, activation_forward,                                                                        \
      (const char *where, cnn_layer_kind kind, const cnn_tensor *x, cnn_tensor *y))                          \
    X(cnn_status, activation_backward,                                                                       \
      (const char *where, cnn_layer_kind kind, const cnn_tensor *y, const cnn_tensor *dy, cnn_tensor *dx))   \
    X(cnn_status, softmax_forward, (const char *where, const cnn_tensor *x, cnn_tensor *y))                  \
    X(cnn_status, softmax_backward,                                                                          \
      (const char *where, const cnn_tensor *y, const cnn_tensor *dy, cnn_tensor *dx))                        \
    X(cnn_status, dropout, (const char *where, const cnn_tensor *x, float p, uint64_t seed, cnn_tensor *y))  \
    X(cnn_status, cross_entropy_forward,                                                                     \
      (const char *where, const cnn_tensor *logits, const int *labels, double *loss))                        \
    X(cnn_status, cross_entropy_backward,                                                                    \
      (const char *where, const cnn_tensor *logits, const int *labels, cnn_tensor *dlogits))                 \
    X(cnn_status, squared_error_forward,                                                                     \
      (const char *where, const cnn_tensor *y, const cnn_tensor *target, double *sum))                       \
    X(cnn_status, squared_error_backward,                                                                    \
      (const char *where, const cnn_tensor *y, const cnn_tensor *target, float scale, cnn_tensor *dy))       \
    X(cnn_status, sgd_step,                                                                                  \
      (const char *where, const cnn_sgd_options *options, float *parameters, const float *gradients,         \
       float *velocity, size_t count))                                                                       \
    X(cnn_status, workspace_make,                                                                            \
      (const char *where, cnn_workspace **to, const cnn_net *net, cnn_mode mode, int batch, int threads,     \
       void *memory, size_t bytes, int own, size_t *needed))                                                 \
    X(void, workspace_free, (cnn_workspace * ws))                                                            \
    X(cnn_status, forward, /* y or classes */                                                                \
      (const char *where, const cnn_net *net, cnn_workspace *ws, const cnn_tensor *x, cnn_tensor *y,         \
       int *classes))                                                                                        \
    X(cnn_status, backward,                                                                                  \
      (const char *where, const cnn_net *net, cnn_workspace *ws, const cnn_tensor *dy, cnn_tensor *dx))      \
    X(cnn_status, train_batch,                                                                               \
      (const char *where, const cnn_net *net, cnn_workspace *ws, const cnn_dataset *data, const int *index,  \
       int n, double *loss, int *correct))                                                                   \
    X(cnn_status, evaluate,                                                                                  \
      (const char *where, const cnn_net *net, const cnn_dataset *data, int threads, cnn_evaluation *result)) \
    X(cnn_status, fit_begin, (struct cnn__fit * f)) /* fit_end frees what it took, also where it failed */   \
    X(cnn_status, fit_epoch, (struct cnn__fit * f))                                                          \
    X(cnn_status, fit_test, (struct cnn__fit * f, cnn_evaluation * result))                                  \
    X(void, fit_end, (struct cnn__fit * f))

#define CNN__OPERATOR_MEMBER(type, name, arguments) type(*name) arguments;

typedef struct cnn__table {
    CNN__OPERATORS(CNN__OPERATOR_MEMBER)
} cnn__table;

static const cnn__table *cnn__ops(void); /* the active row */
static const cnn__table *cnn__cpu(void); /* the CPU's */

/* ---- >>tensor -------------------------------------------------------------------------------------- */

#define CNN__TRY(expression)                                                                                 \
    do {                                                                                                     \
        const cnn_status cnn__tried = (expression);                                                          \
        if (cnn__tried != CNN_OK)                                                                            \
            return cnn__tried;                                                                               \
    } while (0)

/* Elements of a shape; 0 where a size is below 1 or the bytes overflow. */
CNN__OUTLINE static size_t cnn__elements(int n, int c, int h, int w) {
    if (n < 1 || c < 1 || h < 1 || w < 1)
        return 0;
    const size_t count = cnn__mul(cnn__mul((size_t)n, (size_t)c), cnn__mul((size_t)h, (size_t)w));
    return count > SIZE_MAX / sizeof(float) / 2 ? 0 : count;
}

CNN__OUTLINE static size_t cnn__size(const cnn_tensor *t) { /* of a tensor already checked */
    return (size_t)t->n * (size_t)t->c * (size_t)t->h * (size_t)t->w;
}

CNN__COLD static cnn_status cnn__check_sizes(const char *where, const char *name, int n, int c, int h,
                                             int w) {
    if (n < 1 || c < 1 || h < 1 || w < 1)
        return cnn__fail(CNN_ERR_SHAPE, "%s: %s is %dx%dx%dx%d; every size must be at least 1", where, name,
                         n, c, h, w);
    if (!cnn__elements(n, c, h, w))
        return cnn__fail(CNN_ERR_SHAPE, "%s: %s is %dx%dx%dx%d, which overflows the address space", where,
                         name, n, c, h, w);
    return CNN_OK;
}

CNN__COLD static cnn_status cnn__check_pointer(const char *where, const char *name, const void *p) {
    return p ? CNN_OK : cnn__fail(CNN_ERR_ARGUMENT, "%s: %s is NULL", where, name);
}

CNN__COLD static cnn_status cnn__check(const char *where, const char *name, const cnn_tensor *t) {
    CNN__TRY(cnn__check_pointer(where, name, t));
    CNN__TRY(cnn__check_sizes(where, name, t->n, t->c, t->h, t->w));
    return t->data ? CNN_OK : cnn__fail(CNN_ERR_ARGUMENT, "%s: %s has no data (NULL)", where, name);
}

CNN__COLD static cnn_status cnn__check_shape(const char *where, const char *name, const cnn_tensor *t, int n,
                                             int c, int h, int w) {
    CNN__TRY(cnn__check(where, name, t));
    if (t->n != n || t->c != c || t->h != h || t->w != w)
        return cnn__fail(CNN_ERR_SHAPE, "%s: %s is %dx%dx%dx%d, it must be %dx%dx%dx%d", where, name, t->n,
                         t->c, t->h, t->w, n, c, h, w);
    return CNN_OK;
}

CNN__OUTLINE static int cnn__overlap(const void *a, size_t a_bytes, const void *b, size_t b_bytes) {
    const uintptr_t p = (uintptr_t)a, q = (uintptr_t)b;
    return p < q ? q - p < a_bytes : p - q < b_bytes;
}

/* Tensors that were checked, either may be NULL. */
CNN__COLD static cnn_status cnn__check_apart(const char *where, const char *a_name, const cnn_tensor *a,
                                             const char *b_name, const cnn_tensor *b) {
    if (a && b && cnn__overlap(a->data, cnn__size(a) * sizeof(float), b->data, cnn__size(b) * sizeof(float)))
        return cnn__fail(CNN_ERR_ARGUMENT, "%s: %s overlaps %s", where, a_name, b_name);
    return CNN_OK;
}

CNN__COLD static cnn_status cnn__check_apart_or_same(const char *where, const char *a_name,
                                                     const cnn_tensor *a, const char *b_name,
                                                     const cnn_tensor *b) {
    return a->data == b->data ? CNN_OK : cnn__check_apart(where, a_name, a, b_name, b);
}

/* The results of a backward pass, each of which may be NULL, from its inputs and from one another. */
CNN__COLD static cnn_status cnn__check_results_apart(const char *where, const cnn_tensor *x,
                                                     const cnn_tensor *weight, const cnn_tensor *dy,
                                                     const cnn_tensor *dx, const cnn_tensor *dw,
                                                     const cnn_tensor *db) {
    const cnn_tensor *const in[] = {x, weight, dy}, *const out[] = {dx, dw, db};
    const char *const in_names[] = {"x", "weight", "dy"}, *const out_names[] = {"dx", "dw", "db"};
    for (int i = 0; i < 3; i++)
        for (int j = 0; j < 3; j++) {
            CNN__TRY(cnn__check_apart(where, out_names[i], out[i], in_names[j], in[j]));
            if (i < j)
                CNN__TRY(cnn__check_apart(where, out_names[i], out[i], out_names[j], out[j]));
        }
    return CNN_OK;
}

CNN__COLD static cnn_status cnn__no_memory(const char *where, size_t bytes) {
    return cnn__fail(CNN_ERR_NOMEM, "%s: out of memory (%zu bytes wanted)", where, bytes);
}

CNN_API cnn_status cnn_tensor_alloc(cnn_tensor *t, int n, int c, int h, int w) {
    CNN__TRY(cnn__check_pointer("cnn_tensor_alloc", "t", t));
    CNN__TRY(cnn__check_sizes("cnn_tensor_alloc", "t", n, c, h, w));
    const size_t bytes = cnn__elements(n, c, h, w) * sizeof(float);
    float *data = (float *)cnn__ops()->allocate(bytes);
    if (!data)
        return cnn__no_memory("cnn_tensor_alloc", bytes);
    t->n = n;
    t->c = c;
    t->h = h;
    t->w = w;
    t->data = data;
    return CNN_OK;
}

CNN_API void cnn_tensor_free(cnn_tensor *t) {
    if (!t)
        return;
    cnn__free(t->data);
    memset(t, 0, sizeof *t);
}

CNN_API cnn_status cnn_tensor_count(const cnn_tensor *t, size_t *count) {
    CNN__TRY(cnn__check_pointer("cnn_tensor_count", "t", t));
    CNN__TRY(cnn__check_pointer("cnn_tensor_count", "count", count));
    CNN__TRY(cnn__check_sizes("cnn_tensor_count", "t", t->n, t->c, t->h, t->w));
    *count = cnn__size(t);
    return CNN_OK;
}

static cnn_status cnn__cpu_fill(const char *where, float *to, size_t n, float value) {
    (void)where;
    for (size_t i = 0; i < n; i++)
        to[i] = value;
    return CNN_OK;
}

static cnn_status cnn__cpu_copy(const char *where, float *to, const float *from, size_t n) {
    (void)where;
    memcpy(to, from, n * sizeof(float));
    return CNN_OK;
}

CNN_API cnn_status cnn_tensor_fill(cnn_tensor *t, float value) {
    CNN__TRY(cnn__check("cnn_tensor_fill", "t", t));
    return cnn__ops()->fill("cnn_tensor_fill", t->data, cnn__size(t), value);
}

CNN_API cnn_status cnn_tensor_copy(cnn_tensor *dst, const cnn_tensor *src) {
    CNN__TRY(cnn__check("cnn_tensor_copy", "src", src));
    CNN__TRY(cnn__check_shape("cnn_tensor_copy", "dst", dst, src->n, src->c, src->h, src->w));
    CNN__TRY(cnn__check_apart_or_same("cnn_tensor_copy", "dst", dst, "src", src));
    return dst->data == src->data ? CNN_OK
                                  : cnn__ops()->copy("cnn_tensor_copy", dst->data, src->data, cnn__size(src));
}

CNN_API cnn_status cnn_tensor_reshape(cnn_tensor *t, int n, int c, int h, int w) {
    CNN__TRY(cnn__check_pointer("cnn_tensor_reshape", "t", t));
    CNN__TRY(cnn__check_sizes("cnn_tensor_reshape", "t", t->n, t->c, t->h, t->w));
    CNN__TRY(cnn__check_sizes("cnn_tensor_reshape", "the new shape", n, c, h, w));
    if (cnn__elements(n, c, h, w) != cnn__size(t))
        return cnn__fail(CNN_ERR_SHAPE,
                         "cnn_tensor_reshape: %dx%dx%dx%d has %zu elements, %dx%dx%dx%d has %zu", t->n, t->c,
                         t->h, t->w, cnn__size(t), n, c, h, w, cnn__elements(n, c, h, w));
    t->n = n;
    t->c = c;
    t->h = h;
    t->w = w;
    return CNN_OK;
}

/* ---- >>geometry -------------------------------------------------------------------------------------

   A convolution's PACKED image: each channel padded and, for a stride (sh, sw), split into sh*sw phases, the
   phase (r, s) holding the padded pixels (i*sh + r, j*sw + s). Kernel element (a, b) then sees, for output
   (i, j), the pixel (i, j) of one phase shifted by a constant. So stride, dilation and every padding mode
   exist in cnn__pack and its adjoint alone, and the products know nothing of them:
     forward  y[o] = sum over c, a, b of w[o][c][a][b] * packed[c] at that shift
     dx       packed dx[c] at that shift += sum over o of w[o][c][a][b] * dy[o], then unpacked.
   Without padding and stride the image is its own packed form (`direct`).

   Only as many rows are packed at a time as a STRIP of the output needs; a strip of a plane is chosen to stay
   in the second-level cache, in a block it is all rows. The kernels run over LINES of `run` floats: rows of
   the output; or, for narrow planes (`flat`), one line that takes all rows together at the packed image's
   pitch, the few columns between the rows being wasted. */
typedef struct cnn__conv {
    int groups, c, o; /* channels of one group */
    int h, w, oh, ow, kh, kw, sh, sw, dh, dw, pt, pl;
    cnn_padding_mode mode;
    int no_winograd;
    int cell, hp, wp, hq, wq, direct, flat;
    int beyond;         /* zeros that belong to the last row, behind a packed image */
    int strip, rows;    /* output rows in a strip; rows of a phase that it needs */
    int steps;          /* c*kh*kw */
    int plane, y_plane; /* floats of a channel: of a packed strip, and of y as the kernels see it */
    int x_pitch, y_pitch;
    int lines;     /* of a block: 1, or oh */
    size_t run;    /* of one of them */
    int *tap;      /* [steps]: where a step finds its input; dx of a plane: [kh*kw], the kernel by phases */
    int *back;     /* block: [kh*o], plane: [o*kh*kw]; dx */
    int (*met)[2]; /* dx of small planes, [sh*rows]: the first kernel row that meets a row, how many do */
} cnn__conv;

CNN__BOTH static int cnn__or(int value, int otherwise) {
    return value ? value : otherwise;
}

/* The element that padded position i stands for, or -1 for a zero. */
CNN__BOTH static int cnn__source(int i, int pad, int n, cnn_padding_mode mode) {
    i -= pad;
    if (i >= 0 && i < n)
        return i;
    switch (mode) {
    case CNN_PAD_REFLECT:
        return i < 0 ? -i : 2 * (n - 1) - i;
    case CNN_PAD_REPLICATE:
        return i < 0 ? 0 : n - 1;
    case CNN_PAD_CIRCULAR:
        return i < 0 ? i + n : i - n;
    case CNN_PAD_ZEROS:
    default:
        return -1;
    }
}

CNN__COLD static cnn_status cnn__check_padding(const char *where, int pad, int size, cnn_padding_mode mode) {
    if (mode == CNN_PAD_REFLECT && pad >= size)
        return cnn__fail(CNN_ERR_SHAPE, "%s: reflect padding %d must be less than the size %d", where, pad,
                         size);
    if (mode == CNN_PAD_CIRCULAR && pad > size)
        return cnn__fail(CNN_ERR_SHAPE, "%s: circular padding %d must be at most the size %d", where, pad,
                         size);
    return CNN_OK;
}

CNN__OUTLINE static size_t cnn__padded(size_t floats) {
    return cnn__round_up(floats, CNN__ALIGN / sizeof(float));
}

/* Sets the strip to so many output rows, and what follows from it. */
static void cnn__conv_strips(cnn__conv *v, int strip) {
    v->strip = strip;
    v->rows = v->direct ? v->h : strip + (v->kh - 1) * v->dh / v->sh;
    v->rows = v->rows > v->hq ? v->hq : v->rows;
    v->plane = v->sh * v->sw * v->rows * v->wq * v->cell;
    v->y_plane = (v->flat ? strip : v->oh) * v->y_pitch;
}

/* The common case: planes with zeros around. */
static int cnn__pack_plain(const cnn__conv *v) {
    return v->cell == 1 && v->mode == CNN_PAD_ZEROS;
}

/* Forward, the zeros to the right of a row may be those to the left of the next. */
static void cnn__conv_share_zeros(cnn__conv *v) {
    const int right = v->wp - v->w - v->pl;
    if (!cnn__pack_plain(v) || v->sw != 1 || right > v->pl || v->ow > v->wq - right)
        return;
    v->wq -= right;
    v->x_pitch = v->wq;
    v->beyond = right;
    cnn__conv_strips(v, v->oh);
}

/* Checks options against an input c*h*w and a kernel of o output channels and kh*kw, and works out everything
   but the tables. */
CNN__COLD static cnn_status cnn__conv_setup(const char *where, cnn__conv *v, int c, int h, int w, int o,
                                            int kh, int kw, const cnn_conv2d_options *options, int cell) {
    static const cnn_conv2d_options defaults = {0, 0, 0, 0, 0, 0, 0, 0, 0, CNN_PAD_ZEROS, 0};
    const cnn_conv2d_options *p = options ? options : &defaults;
    if (p->stride_h < 0 || p->stride_w < 0)
        return cnn__fail(CNN_ERR_ARGUMENT, "%s: stride %dx%d must not be negative", where, p->stride_h,
                         p->stride_w);
    if (p->dilation_h < 0 || p->dilation_w < 0)
        return cnn__fail(CNN_ERR_ARGUMENT, "%s: dilation %dx%d must not be negative", where, p->dilation_h,
                         p->dilation_w);
    if (p->pad_top < 0 || p->pad_bottom < 0 || p->pad_left < 0 || p->pad_right < 0)
        return cnn__fail(CNN_ERR_ARGUMENT, "%s: padding %d,%d,%d,%d must not be negative", where, p->pad_top,
                         p->pad_bottom, p->pad_left, p->pad_right);
    if ((int)p->padding_mode < 0 || (int)p->padding_mode > (int)CNN_PAD_CIRCULAR)
        return cnn__fail(CNN_ERR_ARGUMENT, "%s: padding mode %d is unknown", where, (int)p->padding_mode);
    const int groups = cnn__or(p->groups, 1);
    if (groups < 1 || c % groups || o % groups)
        return cnn__fail(groups < 1 ? CNN_ERR_ARGUMENT : CNN_ERR_SHAPE,
                         "%s: %d groups must divide the %d input and %d output channels", where, groups, c,
                         o);
    CNN__TRY(cnn__check_padding(where, p->pad_top, h, p->padding_mode));
    CNN__TRY(cnn__check_padding(where, p->pad_bottom, h, p->padding_mode));
    CNN__TRY(cnn__check_padding(where, p->pad_left, w, p->padding_mode));
    CNN__TRY(cnn__check_padding(where, p->pad_right, w, p->padding_mode));
    memset(v, 0, sizeof *v);
    v->groups = groups;
    v->c = c / groups;
    v->o = o / groups;
    v->h = h;
    v->w = w;
    v->kh = kh;
    v->kw = kw;
    v->sh = cnn__or(p->stride_h, 1);
    v->sw = cnn__or(p->stride_w, 1);
    v->dh = cnn__or(p->dilation_h, 1);
    v->dw = cnn__or(p->dilation_w, 1);
    v->pt = p->pad_top;
    v->pl = p->pad_left;
    v->mode = p->padding_mode;
    v->no_winograd = p->no_winograd;
    v->cell = cell;
    const int64_t hp = (int64_t)h + p->pad_top + p->pad_bottom, wp = (int64_t)w + p->pad_left + p->pad_right;
    const int64_t eh = (int64_t)v->dh * (kh - 1) + 1, ew = (int64_t)v->dw * (kw - 1) + 1;
    if (eh > hp || ew > wp)
        return cnn__fail(CNN_ERR_SHAPE, "%s: kernel %dx%d does not fit its %dx%d input%s", where, kh, kw, h,
                         w,
                         v->dh > 1 || v->dw > 1 ? " at this dilation"
                         : hp > h || wp > w     ? " and padding"
                                                : "");
    const int64_t hq = (hp + v->sh - 1) / v->sh, wq = (wp + v->sw - 1) / v->sw;
    v->oh = (int)((hp - eh) / v->sh + 1);
    v->ow = (int)((wp - ew) / v->sw + 1);
    /* The tables hold int offsets within one group's packed image and output. */
    const size_t plane =
        cnn__mul(cnn__mul((size_t)v->sh * (size_t)v->sw, (size_t)hq), cnn__mul((size_t)wq, (size_t)cell));
    const size_t y_plane = cnn__mul(cnn__mul((size_t)v->oh, (size_t)(wq > v->ow ? wq : v->ow)), (size_t)cell);
    const size_t steps = cnn__mul(cnn__mul((size_t)v->c, (size_t)kh), (size_t)kw);
    if (hp > INT_MAX || wp > INT_MAX || cnn__mul((size_t)v->c, plane) > INT_MAX ||
        cnn__mul((size_t)v->o, y_plane) > INT_MAX || cnn__mul(steps, (size_t)v->o) > INT_MAX)
        return cnn__fail(CNN_ERR_SHAPE, "%s: %dx%dx%d with kernel %dx%d to %d channels is too large", where,
                         c, h, w, kh, kw, o);
    v->hp = (int)hp;
    v->wp = (int)wp;
    v->hq = (int)hq;
    v->wq = (int)wq;
    v->direct = hp == h && wp == w && v->sh == 1 && v->sw == 1;
    v->steps = (int)steps;
    v->x_pitch = v->wq * cell;
    v->y_pitch = v->ow * cell;
    cnn__conv_strips(v, v->oh);
    if (v->x_pitch == v->y_pitch) { /* rows follow one another without a gap in x and y */
        v->lines = 1;
        v->run = (size_t)(v->oh - 1) * (size_t)v->y_pitch + (size_t)v->ow * (size_t)cell;
    } else {
        v->lines = v->oh;
        v->run = (size_t)v->ow * (size_t)cell;
    }
    return CNN_OK;
}

/* Where, in a channel of the packed strip, row i of the phases (r, 0) begins; and how far from there the
   pixels lie that kernel column b reads. */
static int cnn__packed_row(const cnn__conv *v, int r, int i) {
    return (r * v->sw * v->rows + i) * v->wq * v->cell;
}

static int cnn__packed_column(const cnn__conv *v, int b) {
    return (b * v->dw % v->sw * v->rows * v->wq + b * v->dw / v->sw) * v->cell;
}

/* The phase that kernel row e reads. */
static int cnn__row_phase(const cnn__conv *v, int e) {
    return e * v->dh % v->sh;
}

/* Takes the table of the forward pass from the arena and, unless it only counts, fills it in. */
CNN__COLD static void cnn__conv_taps(cnn__conv *v, cnn__arena *arena) {
    v->tap = (int *)cnn__take(arena, (size_t)v->steps, sizeof *v->tap);
    const int window = v->kh * v->kw;
    for (int k = 0; arena->base && k < window; k++) {
        const int a = k / v->kw;
        v->tap[k] =
            cnn__packed_row(v, a * v->dh % v->sh, a * v->dh / v->sh) + cnn__packed_column(v, k % v->kw);
    }
    for (int k = window; arena->base && k < v->steps; k++)
        v->tap[k] = v->tap[k - window] + v->plane;
}

/* A block's table for dx: kernel rows by phase, each with all output channels. Over several lines it is
   relative to the line that the kernel's row 0 would take. */
CNN__COLD static void cnn__conv_back_taps(cnn__conv *v, cnn__arena *arena) {
    v->back = (int *)cnn__take(arena, (size_t)v->kh * (size_t)v->o, sizeof *v->back);
    int *back = v->back;
    for (int r = 0; arena->base && r < v->sh; r++)
        for (int e = 0; e < v->kh; e++)
            for (int o = 0; o < v->o && cnn__row_phase(v, e) == r; o++)
                *back++ = o * v->y_plane - (v->lines > 1 ? e * v->dh / v->sh * v->y_pitch : 0);
}

/* The positions j of phase s, at stride step, that lie on an image row of size n behind `pad` padding: from
   *from to *to, not included. */
static void cnn__inside(int s, int step, int pad, int n, int count, int *from, int *to) {
    const int first = pad > s ? (pad - s + step - 1) / step : 0;
    const int64_t last = (int64_t)pad + n - 1 - s; /* j*step <= last */
    const int64_t end = last < 0 ? 0 : last / step + 1;
    *to = end < count ? (int)end : count;
    *from = first < *to ? first : *to;
}

/* One row of a phase from one row of the image. */
CNN__LOOPS static void cnn__pack_row(const cnn__conv *v, const float *src, int s, float *dst) {
    const size_t cell = (size_t)v->cell, bytes = cell * sizeof(float);
    int from = 0, to = 0;
    cnn__inside(s, v->sw, v->pl, v->w, v->wq, &from, &to);
    for (int j = 0; j < v->wq; j++) {
        if (j == from && to > from) { /* the image's own pixels */
            const float *p = src + (size_t)(from * v->sw + s - v->pl) * cell;
            if (v->sw == 1)
                memcpy(dst + (size_t)from * cell, p, (size_t)(to - from) * bytes);
            else if (cell == 1)
                cnn__k()->every(p, 0, v->sw, dst + from, 0, (size_t)(to - from), 1);
            else
                for (; j < to; j++, p += (size_t)v->sw * cell)
                    memcpy(dst + (size_t)j * cell, p, bytes);
            j = to - 1;
            continue;
        }
        const int64_t i = (int64_t)j * v->sw + s;
        const int source = i < v->wp ? cnn__source((int)i, v->pl, v->w, v->mode) : -1;
        if (source < 0)
            memset(dst + (size_t)j * cell, 0, bytes);
        else
            memcpy(dst + (size_t)j * cell, src + (size_t)source * cell, bytes);
    }
}

/* n floats on their way to the cache. (Inline, as is every function that only fetches: GCC drops calls of
   what has no effects.) */
CNN__INLINE void cnn__fetch(const float *x, size_t n) {
    for (size_t i = 0; i < n; i += CNN__ALIGN / sizeof(float))
        CNN__PREFETCH(x + i);
}

/* Whether a kernel reads phase r. */
static int cnn__phase_read(int r, int stride, int kernel, int dilation) {
    for (int e = 0; e < kernel && e < stride; e++)
        if (e * dilation % stride == r)
            return 1;
    return 0;
}

/* The rows of a plane that a strip reads. The next plane is another page, where processors that fetch ahead
   begin anew. */
CNN__INLINE void cnn__fetch_plane(const cnn__conv *v, const float *x, int row0) {
    for (int r = 0, first = 0, end = 0; r < v->sh; r++) {
        cnn__inside(r, v->sh, v->pt, v->h, row0 + v->rows, &first, &end);
        if (!cnn__phase_read(r, v->sh, v->kh, v->dh))
            continue;
        for (int i = cnn__max(first, row0); i < end; i++)
            cnn__fetch(x + ((ptrdiff_t)i * v->sh + r - v->pt) * v->w, (size_t)v->w);
    }
}

/* Of it, all but the zeros. With stride 1, padding may be negative. */
CNN__LOOPS static void cnn__pack_image(const cnn__conv *v, const float *x, int c0, int c1, int row0,
                                       float *packed) {
    const cnn__kernels *k = cnn__k();
    const size_t row = (size_t)v->wq, image = (size_t)v->h * (size_t)v->w;
    packed += (size_t)c0 * (size_t)v->plane;
    x += (size_t)c0 * image;
    if (v->sh == 1 && v->sw == 1) {
        const int from = cnn__clamp(v->pt - row0, 0, v->rows),
                  to = cnn__clamp(v->pt + v->h - row0, 0, v->rows);
        const int left = cnn__clamp(v->pl, 0, v->wq), right = cnn__clamp(v->pl + v->w, 0, v->wq);
        for (int c = c0; c < c1 && to > from && right > left; c++, x += image, packed += v->plane)
            k->copy(x + (ptrdiff_t)(row0 + from - v->pt) * v->w + (left - v->pl), (size_t)v->w,
                    packed + (size_t)from * row + left, row, (size_t)(right - left), to - from);
        return;
    }
    for (int c = c0; c < c1; c++, x += image, packed += v->plane) {
        if (c + 1 < c1 && image >= CNN__PAGE_FLOATS)
            cnn__fetch_plane(v, x + image, row0);
        for (int r = 0, first = 0, end = 0; r < v->sh; r++) {
            if (!cnn__phase_read(r, v->sh, v->kh, v->dh))
                continue;
            cnn__inside(r, v->sh, v->pt, v->h, row0 + v->rows, &first, &end);
            first = cnn__max(first, row0);
            for (int s = 0, from = 0, to = 0; s < v->sw; s++) {
                cnn__inside(s, v->sw, v->pl, v->w, v->wq, &from, &to);
                if (to > from &&
                    cnn__phase_read(s, v->sw, v->kw, v->dw)) /* what of the phase lies on the image */
                    k->every(x + (ptrdiff_t)(first * v->sh + r - v->pt) * v->w + (from * v->sw + s - v->pl),
                             (size_t)v->sh * (size_t)v->w, v->sw,
                             packed + (size_t)((r * v->sw + s) * v->rows + first - row0) * row + from, row,
                             (size_t)(to - from), end - first);
            }
        }
    }
}

/* cnn__pack where the zeros are there already, from an image packed in the same place before. */
static void cnn__repack(const cnn__conv *v, const float *x, int c0, int c1, int row0, float *packed) {
    const size_t row = (size_t)v->x_pitch;
    if (cnn__pack_plain(v)) {
        cnn__pack_image(v, x, c0, c1, row0, packed);
        return;
    }
    for (int c = c0; c < c1; c++)
        for (int r = 0; r < v->sh; r++)
            for (int i = 0; i < v->rows; i++) {
                const int64_t at = ((int64_t)row0 + i) * v->sh + r;
                const int source = at < v->hp ? cnn__source((int)at, v->pt, v->h, v->mode) : -1;
                const float *src = x + ((size_t)c * (size_t)v->h + (size_t)(source < 0 ? 0 : source)) *
                                           (size_t)v->w * (size_t)v->cell;
                for (int s = 0; s < v->sw; s++) {
                    float *dst =
                        packed + (size_t)c * (size_t)v->plane + (size_t)((r * v->sw + s) * v->rows + i) * row;
                    if (source < 0)
                        memset(dst, 0, row * sizeof(float));
                    else
                        cnn__pack_row(v, src, s, dst);
                }
            }
}

/* Packs rows row0 to row0 + v->rows - 1 of the phases of channels c0..c1-1 of a group's image x; rows beyond
   the padded image become zeros. */
static void cnn__pack(const cnn__conv *v, const float *x, int c0, int c1, int row0, float *packed) {
    if (cnn__pack_plain(v))
        memset(packed + (size_t)c0 * (size_t)v->plane, 0,
               ((size_t)(c1 - c0) * (size_t)v->plane + (size_t)v->beyond) * sizeof(float));
    cnn__repack(v, x, c0, c1, row0, packed);
}

/* The adjoint of packing a row: every packed pixel is added to the one it was a copy of. */
CNN__LOOPS static void cnn__unpack_row(const cnn__conv *v, const cnn__kernels *k, const float *src, int s,
                                       float *dst) {
    const size_t cell = (size_t)v->cell;
    int from = 0, to = 0;
    cnn__inside(s, v->sw, v->pl, v->w, v->wq, &from, &to);
    for (int j = 0; j < v->wq; j++) {
        if (j == from && to > from) {
            float *p = dst + (size_t)(from * v->sw + s - v->pl) * cell;
            if (v->sw == 1)
                k->add(p, src + (size_t)from * cell, (size_t)(to - from) * cell);
            else if (cell == 1)
                for (; j < to; j++, p += v->sw)
                    *p += src[j];
            else
                for (; j < to; j++, p += (size_t)v->sw * cell)
                    k->add(p, src + (size_t)j * cell, cell);
            j = to - 1;
            continue;
        }
        const int64_t i = (int64_t)j * v->sw + s;
        const int source = i < v->wp ? cnn__source((int)i, v->pl, v->w, v->mode) : -1;
        if (source >= 0)
            k->add(dst + (size_t)source * cell, src + (size_t)j * cell, cell);
    }
}

/* to[2*i] = even[i], to[2*i + 1] = odd[i], up to to[n - 1]. */
CNN__INLINE void cnn__interleave(const float *even, const float *odd, float *to, int n) {
    int i = 0;
#if CNN__X86
    for (; i + 8 <= n; i += 8) {
        const __m128 a = _mm_loadu_ps(even + i / 2), b = _mm_loadu_ps(odd + i / 2);
        _mm_storeu_ps(to + i, _mm_unpacklo_ps(a, b));
        _mm_storeu_ps(to + i + 4, _mm_unpackhi_ps(a, b));
    }
#endif
    for (; i < n; i++)
        to[i] = (i & 1 ? odd : even)[i / 2];
}

/* Row y of a channel of dx, with zeros around: each pixel is one of the packed image's. */
CNN__LOOPS static void cnn__unpack_plain(const cnn__conv *v, const float *plane, int y, float *dx) {
    const int at = v->pt + y, line = at / v->sh;
    const size_t phase = (size_t)v->rows * (size_t)v->wq;
    const float *row = plane + (size_t)(at % v->sh * v->sw) * phase + (size_t)line * (size_t)v->wq;
    if (line >= v->rows) { /* the kernel never reaches it */
        memset(dx, 0, (size_t)v->w * sizeof(float));
        return;
    }
    if (v->sw == 2)
        cnn__interleave(row + (size_t)(v->pl % 2) * phase + v->pl / 2,
                        row + (size_t)((v->pl + 1) % 2) * phase + (v->pl + 1) / 2, dx, v->w);
    for (int s = 0; v->sw != 2 && s < v->sw; s++) {
        const float *from = row + (size_t)((v->pl + s) % v->sw) * phase + (v->pl + s) / v->sw;
        for (int j = s; j < v->w; j += v->sw)
            dx[j] = *from++;
    }
}

/* Rows h0..h1-1 of dx, channels c0..c1-1 = the adjoint of cnn__pack applied to packed, which begins with
   channel c0. Some rows alone only where padding is zeros. */
static void cnn__unpack(const cnn__conv *v, const cnn__kernels *k, const float *packed, int c0, int c1,
                        int h0, int h1, float *dx) {
    const size_t image = (size_t)v->h * (size_t)v->w * (size_t)v->cell, row = (size_t)v->x_pitch;
    const size_t line = (size_t)v->w * (size_t)v->cell, first = (size_t)h0 * line;
    if (v->sh == 1 && v->sw == 1 && v->mode == CNN_PAD_ZEROS) { /* every pixel was copied once */
        const float *from = packed + (size_t)(v->pt + h0) * row + (size_t)(v->pl * v->cell);
        for (int c = c0; c < c1; c++, from += v->plane)
            k->copy(from, row, dx + (size_t)c * image + first, line, line, h1 - h0);
        return;
    }
    if (cnn__pack_plain(v)) {
        for (int c = c0; c < c1; c++)
            for (int y = h0; y < h1; y++)
                cnn__unpack_plain(v, packed + (size_t)(c - c0) * (size_t)v->plane, y,
                                  dx + (size_t)c * image + (size_t)y * line);
        return;
    }
    for (int c = c0; c < c1; c++)
        memset(dx + (size_t)c * image + first, 0, (size_t)(h1 - h0) * line * sizeof(float));
    for (int c = c0; c < c1; c++)
        for (int r = 0; r < v->sh; r++)
            for (int i = 0; i < v->rows; i++) {
                const int64_t at = (int64_t)i * v->sh + r;
                const int source = at < v->hp ? cnn__source((int)at, v->pt, v->h, v->mode) : -1;
                if (source < h0 || source >= h1)
                    continue;
                float *dst = dx + (size_t)c * image + (size_t)source * (size_t)v->w * (size_t)v->cell;
                for (int s = 0; s < v->sw; s++)
                    cnn__unpack_row(v, k,
                                    packed + (size_t)(c - c0) * (size_t)v->plane +
                                        (size_t)((r * v->sw + s) * v->rows + i) * row,
                                    s, dst);
            }
}

/* to[j][i] = row i[j] of 4x4 floats, or added to it; rows of `to` at this pitch. */
CNN__INLINE void cnn__transpose4_rows(const float *const *row, size_t at, float *to, size_t pitch,
                                      const int add) {
    const float *const row0 = row[0] + at, *const row1 = row[1] + at;
    const float *const row2 = row[2] + at, *const row3 = row[3] + at;
#if CNN__X86
    __m128 a = _mm_loadu_ps(row0), b = _mm_loadu_ps(row1), c = _mm_loadu_ps(row2), d = _mm_loadu_ps(row3);
    _MM_TRANSPOSE4_PS(a, b, c, d);
    _mm_storeu_ps(to, add ? _mm_add_ps(_mm_loadu_ps(to), a) : a);
    to += pitch;
    _mm_storeu_ps(to, add ? _mm_add_ps(_mm_loadu_ps(to), b) : b);
    to += pitch;
    _mm_storeu_ps(to, add ? _mm_add_ps(_mm_loadu_ps(to), c) : c);
    to += pitch;
    _mm_storeu_ps(to, add ? _mm_add_ps(_mm_loadu_ps(to), d) : d);
#else
    for (size_t j = 0; j < 4; j++, to += pitch) {
        to[0] = add ? to[0] + row0[j] : row0[j];
        to[1] = add ? to[1] + row1[j] : row1[j];
        to[2] = add ? to[2] + row2[j] : row2[j];
        to[3] = add ? to[3] + row3[j] : row3[j];
    }
#endif
}

CNN__INLINE void cnn__transpose4(const float *from, size_t from_pitch, float *to, size_t to_pitch) {
    const float *const row[4] = {from, from + from_pitch, from + 2 * from_pitch, from + 3 * from_pitch};
    cnn__transpose4_rows(row, 0, to, to_pitch, 0);
}

/* to[j][i] = row i[j] of 2x4 floats. */
CNN__INLINE void cnn__transpose_pair(const float *from, size_t from_pitch, float *to, size_t to_pitch) {
#if CNN__X86
    const __m128 a = _mm_loadu_ps(from), b = _mm_loadu_ps(from + from_pitch);
    const __m128 low = _mm_unpacklo_ps(a, b), high = _mm_unpackhi_ps(a, b);
    _mm_storel_pi((__m64 *)(void *)to, low);
    _mm_storeh_pi((__m64 *)(void *)(to + to_pitch), low);
    _mm_storel_pi((__m64 *)(void *)(to + 2 * to_pitch), high);
    _mm_storeh_pi((__m64 *)(void *)(to + 3 * to_pitch), high);
#else
    for (size_t j = 0; j < 4; j++, to += to_pitch) {
        to[0] = from[j];
        to[1] = from[from_pitch + j];
    }
#endif
}

/* A block of f features, [f][cell], to `count` rows of f values at a pitch. */
CNN__LOOPS static void cnn__rows_from_block(const float *block, size_t f, int cell, int count, float *rows,
                                            size_t pitch) {
    const size_t whole = f / 4 * 4;
    int s = 0;
    if (cell == 1) {
        memcpy(rows, block, f * sizeof(float));
        return;
    }
    for (; s + 4 <= count; s += 4)
        for (size_t i = 0; i < whole; i += 4)
            cnn__transpose4(block + i * CNN__LANES + (size_t)s, CNN__LANES, rows + (size_t)s * pitch + i,
                            pitch);
    const int done = s;
    for (s = 0; s < count; s++)
        for (size_t i = s < done ? whole : 0; i < f; i++)
            rows[(size_t)s * pitch + i] = block[i * CNN__LANES + (size_t)s];
}

/* And back. Lanes beyond count are zeros. */
CNN__LOOPS static void cnn__block_from_rows(const float *const *row, size_t f, int cell, int count,
                                            float *block) {
    if (cell == 1) {
        memcpy(block, row[0], f * sizeof(float));
        return;
    }
    const size_t whole = f / 4 * 4;
    const int done = count / 4 * 4;
    for (size_t i = 0, end = 0; i < whole; i = end) { /* a cache line of each row, and of block, in turn */
        end = i + 16 < whole ? i + 16 : whole;
        for (int s = 0; s < done; s += 4)
            for (size_t j = i; j < end; j += 4)
                cnn__transpose4_rows(row + s, j, block + j * CNN__LANES + (size_t)s, CNN__LANES, 0);
    }
    for (int s = 0; s < CNN__LANES; s++)
        for (size_t i = s < done ? whole : 0; i < f; i++)
            block[i * CNN__LANES + (size_t)s] = s < count ? row[s][i] : 0.0f;
}

/* ---- >>conv ------------------------------------------------------------------------------------------

   First, weights in the order that the kernels want. */

/* One panel of mr rows: to[k*mr + m] = w[m*rs + k*ks], k < steps. */
CNN__LOOPS static void cnn__panel(const float *w, size_t rs, size_t ks, int mr, int steps, float *to) {
    int m = 0;
    for (int k = 0; rs == 1 && k < steps; k++, w += ks, to += mr)
        if (mr == 6) /* no calls for the usual ones */
            memcpy(to, w, 6 * sizeof(float));
        else if (mr == 8)
            memcpy(to, w, 8 * sizeof(float));
        else
            memcpy(to, w, (size_t)mr * sizeof(float));
    if (rs == 1)
        return;
    for (int rows = 0; ks == 1 && mr - m >= 2; m += rows) {
        int k = 0;
        rows = mr - m >= 4 ? 4 : 2;
        for (; k + 4 <= steps; k += 4)
            if (rows == 4)
                cnn__transpose4(w + (size_t)m * rs + k, rs, to + (size_t)k * (size_t)mr + m, (size_t)mr);
            else
                cnn__transpose_pair(w + (size_t)m * rs + k, rs, to + (size_t)k * (size_t)mr + m, (size_t)mr);
        for (; k < steps; k++)
            for (int i = m; i < m + rows; i++)
                to[(size_t)k * (size_t)mr + (size_t)i] = w[(size_t)i * rs + (size_t)k];
    }
    for (; m < mr; m++)
        for (int k = 0; k < steps; k++)
            to[(size_t)k * (size_t)mr + (size_t)m] = w[(size_t)m * rs + (size_t)k * ks];
}

/* All panels of a matrix, or every `of`-th of them from the first-th on. */
static void cnn__panels(const cnn__kernels *k, const float *w, size_t rs, size_t ks, int rows, int steps,
                        int first, int of, float *to) {
    const int most = rs == 1 ? 8 : steps; /* panels share the lines of w, which soon leave the cache */
    for (int k0 = 0; k0 < steps; k0 += most)
        for (int m = 0, i = 0, mr = 0; m < rows; m += mr, i++) {
            mr = cnn__panel_rows(k->panel, rows - m);
            if (i % of == first)
                cnn__panel(w + (size_t)m * rs + (size_t)k0 * ks, rs, ks, mr, cnn__min(most, steps - k0),
                           to + (size_t)m * (size_t)steps + (size_t)(k0 * mr));
        }
}

/* A block's products. The panels, and dw, are the group's; packed is the group's packed image. */

/* All output channels of the group, lines i0..i1-1. bias, of the group, may be NULL. */
static void cnn__conv_forward(const cnn__conv *v, const cnn__kernels *k, const float *packed,
                              const float *panels, const float *bias, int i0, int i1, float *y) {
    cnn__product a;
    memset(&a, 0, sizeof a);
    a.rows = v->o;
    a.steps = v->steps;
    a.n = v->run;
    a.tap = v->tap;
    a.w = panels;
    a.panel = v->steps;
    a.bias = bias;
    a.start = bias ? CNN__BIAS : CNN__ZERO;
    a.ym = v->y_plane;
    a.slack = 1;
    for (int i = i0; i < i1; i++) {
        a.x = packed + (size_t)i * (size_t)v->x_pitch;
        a.y = y + (size_t)i * (size_t)v->y_pitch;
        cnn__product_run(k, &a);
    }
}

/* Outputs as lanes: panels of CNN__LANES outputs, the last of a group with zeros beyond them. The i-th of all
   groups' panels; backward, where v is the reverse, of the weights the other way round. */
static void cnn__lanes_panel(const cnn__conv *v, const float *weight, int backward, int i, float *panels) {
    const size_t steps = (size_t)v->steps, window = (size_t)(v->kh * v->kw), outputs = (size_t)v->o;
    const size_t row = backward ? window : steps; /* from an output's weights to the next one's */
    const int each = cnn__ceil_div(v->o, CNN__LANES), o = i % each * CNN__LANES;
    const int count = cnn__min(v->o - o, CNN__LANES), runs = backward ? v->c : 1;
    const float *w = weight + (size_t)(i / each) * outputs * steps + (size_t)o * row, *from[CNN__LANES];
    float *to = panels + (size_t)i * steps * CNN__LANES;
    for (int r = 0; r < runs; r++, w += outputs * window, to += steps / (size_t)runs * CNN__LANES) {
        for (int m = 0; m < count; m++)
            from[m] = w + (size_t)m * row;
        cnn__block_from_rows(from, steps / (size_t)runs, CNN__LANES, count, to);
    }
}

static size_t cnn__lanes_weights(const cnn__conv *v) {
    const size_t outputs = (size_t)cnn__ceil_div(v->o, CNN__LANES) * CNN__LANES;
    return cnn__mul(cnn__mul((size_t)v->groups, outputs), (size_t)v->steps);
}

/* Floats of a packed image, which tiles read beyond. */
static size_t cnn__lanes_packed(const cnn__conv *v) {
    return cnn__padded((size_t)v->c * (size_t)v->plane + (size_t)v->beyond + CNN__LANES);
}

/* Positions from line to line of what tiles write: where the steps come in chunks, it must not be overwritten
   from the line before. */
static int cnn__lanes_pitch(const cnn__conv *v) {
    return v->steps > CNN__CHUNK * 3 / 2 ? v->ow + CNN__BEYOND : v->ow;
}

/* At a time, where so many outputs are left and vectors have CNN__LANES lanes. */
static int cnn__lanes_panels(int outputs) {
    return outputs > 3 * CNN__LANES ? 4 : outputs > CNN__LANES ? 2 : 1;
}

static size_t cnn__lanes_floats(const cnn__conv *v, int rows) {
    const size_t panel = cnn__add(cnn__mul((size_t)rows, (size_t)cnn__lanes_pitch(v)), CNN__BEYOND);
    return cnn__mul((size_t)(cnn__lanes_panels(v->o) * CNN__LANES), panel);
}

/* What a single example's outputs go through before they move to their places, in whole vectors; a part may be
   NULL. */
typedef struct cnn__follow {
    cnn__unary_kernel activation;
    const cnn__pool *pool;
} cnn__follow;

static void cnn__pool_blocks(const cnn__pool *p, const float *x, float *y, int c, int cell); /* see >>pool */

/* [positions][CNN__LANES] in place: a window's result takes a place no later than its first element's. Returns
   how many positions there are then. */
static int cnn__follow_lanes(const cnn__follow *f, float *y, int positions) {
    if (f->activation)
        f->activation(y, y, (size_t)positions * CNN__LANES);
    if (!f->pool)
        return positions;
    cnn__pool_blocks(f->pool, y, y, 1, CNN__LANES);
    return f->pool->oh * f->pool->ow;
}

/* `channels` outputs of `rows` rows, to y, in chunks of the steps whose panel stays in the first-level
   cache. follow may be NULL. */
static void cnn__conv_lanes(const cnn__conv *v, const cnn__kernels *k, const float *packed,
                            const float *panels, const float *bias, const cnn__follow *follow, int channels,
                            int rows, float *scratch, float *y) {
    const int pitch = cnn__lanes_pitch(v), close = pitch == v->ow;
    const int some =
        close ? cnn__clamp(CNN__CHUNK / v->ow, 1, rows) : rows; /* cached still when they move on */
    cnn__pixels a;
    memset(&a, 0, sizeof a);
    a.n = v->ow;
    a.xr = v->x_pitch;
    a.yr = (ptrdiff_t)pitch * CNN__LANES;
    a.wp = (ptrdiff_t)v->steps * CNN__LANES;
    a.yp = ((ptrdiff_t)some * pitch + CNN__BEYOND) * CNN__LANES;
    a.y = scratch;
    for (int o = 0; o < channels; o += a.panels * CNN__LANES, panels += a.panels * a.wp) {
        float own[4 * CNN__LANES] = {0};
        a.panels = k->lanes == CNN__LANES ? cnn__lanes_panels(channels - o) : 1;
        const int chunks = close ? 1 : cnn__ceil_div(v->steps, CNN__CHUNK / a.panels);
        const int count = cnn__min(channels - o, a.panels * CNN__LANES);
        for (int i = 0; bias && i < count; i++)
            own[i] = bias[o + i];
        for (int row = 0; row < rows; row += some) {
            a.lines = cnn__min(some, rows - row);
            a.x = packed + row * v->x_pitch;
            for (int c = 0; c < chunks; c++) {
                const int first = (int)((int64_t)v->steps * c / chunks);
                a.steps = (int)((int64_t)v->steps * (c + 1) / chunks) - first;
                a.tap = v->tap + first;
                a.w = panels + (size_t)first * CNN__LANES;
                a.bias = c ? NULL : own;
                k->pixels(&a);
            }
            for (int p = 0; p < a.panels; p++) {
                float *from = scratch + p * a.yp;
                int line = close ? v->ow * a.lines : v->ow, plane = v->y_plane;
                if (follow)
                    line = plane = cnn__follow_lanes(follow, from, line);
                float *to = y + (size_t)(o + p * CNN__LANES) * (size_t)plane + (size_t)row * (size_t)v->ow;
                for (int i = 0; i < (close ? 1 : a.lines); i++, from += a.yr, to += v->ow)
                    cnn__rows_from_block(from, (size_t)line, CNN__LANES,
                                         cnn__min(count - p * CNN__LANES, CNN__LANES), to, (size_t)plane);
            }
        }
    }
}

/* A single example's rows are too short for vectors. So its outputs are their lanes, or, where those are too
   few, its rows lie in one line at the packed image's pitch: whichever fills more lanes. */
static int cnn__outputs_as_lanes(const cnn__conv *v) {
    const double lanes = (double)cnn__ceil_div(v->o, CNN__LANES) * CNN__LANES;
    return v->cell == 1 && v->lines > 1 && (double)v->o / lanes > (double)v->ow / v->wq;
}

/* Floats of a single example's products before they take their places. */
static size_t cnn__single_floats(const cnn__conv *v) {
    return cnn__outputs_as_lanes(v) ? cnn__lanes_floats(v, v->oh)
           : v->lines > 1           ? cnn__mul((size_t)v->o, cnn__padded((size_t)v->oh * (size_t)v->wq))
                                    : 0;
}

/* Whether what follows may come before a single example's outputs move to their places: as lanes, all of them
   at one time and without gaps; as a line, whose gaps it takes along, if they are few. */
static int cnn__lanes_follow(const cnn__conv *v) {
    return cnn__outputs_as_lanes(v) && cnn__lanes_pitch(v) == v->ow && v->oh * v->ow <= CNN__CHUNK;
}

static int cnn__line_follows(const cnn__conv *v) {
    return v->cell == 1 && v->lines > 1 && !cnn__outputs_as_lanes(v) && 5 * v->wq <= 6 * v->ow;
}

/* follow, which may be NULL, has a pool, and takes all rows where they lie. */
static void cnn__single_line(const cnn__conv *v, const cnn__kernels *k, const float *x, const float *panels,
                             const float *bias, const cnn__follow *follow, int rows, float *scratch,
                             float *y) {
    cnn__product a;
    memset(&a, 0, sizeof a);
    a.rows = v->o;
    a.steps = v->steps;
    a.n = cnn__padded((size_t)(rows - 1) * (size_t)v->wq + (size_t)v->ow);
    a.tap = v->tap;
    a.x = x;
    a.w = panels;
    a.panel = v->steps;
    a.bias = bias;
    a.start = bias ? CNN__BIAS : CNN__ZERO;
    a.y = scratch;
    a.ym = (ptrdiff_t)a.n;
    a.slack = 1;
    cnn__product_run(k, &a);
    if (follow) {
        cnn__pool pool = *follow->pool;
        pool.w = v->wq;
        if (follow->activation)
            follow->activation(scratch, scratch, (size_t)v->o * a.n);
        for (int m = 0; m < v->o; m++, scratch += a.n, y += pool.oh * pool.ow)
            cnn__pool_blocks(&pool, scratch, y, 1, 1);
        return;
    }
    for (int m = 0; m < v->o; m++)
        k->copy(scratch + (size_t)m * a.n, (size_t)v->wq, y + (size_t)m * (size_t)v->y_plane, (size_t)v->ow,
                (size_t)v->ow, rows);
}

/* The panels for dx of a block: for each kernel column, rows are input channels and steps in the order of
   v->back. */
static void cnn__conv_back_panels(const cnn__conv *v, const cnn__kernels *k, const float *weight, float *to) {
    const size_t window = (size_t)v->kh * (size_t)v->kw, steps = (size_t)v->kh * (size_t)v->o;
    int mr = 0;
    for (int b = 0; b < v->kw; b++, to += (size_t)v->c * steps)
        for (int c = 0; c < v->c; c += mr) {
            size_t at = 0;
            mr = cnn__panel_rows(k->panel, v->c - c);
            for (int r = 0; r < v->sh; r++)
                for (int e = 0; e < v->kh; e++)
                    if (cnn__row_phase(v, e) == r) {
                        cnn__panel(weight + (size_t)c * window + (size_t)(e * v->kw + b), window,
                                   (size_t)v->steps, mr, v->o, to + (size_t)c * steps + at * (size_t)mr);
                        at += (size_t)v->o;
                    }
        }
}

/* The kernel rows of phase r that meet row i of the packed image's phase: those whose output line exists.
   Returns how many; *first is the place of the first among the phase's. */
static int cnn__meeting_rows(const cnn__conv *v, int r, int i, int *first) {
    int place = 0, count = 0;
    *first = 0;
    for (int e = 0; e < v->kh; e++) {
        if (cnn__row_phase(v, e) != r)
            continue;
        const int line = i - e * v->dh / v->sh;
        if (line >= 0 && line < v->oh) {
            *first = count ? *first : place;
            count++;
        }
        place++;
    }
    return count;
}

/* `rows` kernel rows, from place `first` in v->back on, into the row of packed dx at y: a product for each
   kernel column. x is dy's line for the kernel's row 0. */
static void cnn__backward_row(const cnn__conv *v, const cnn__kernels *k, cnn__product *a, int first, int rows,
                              const float *panels, float *y) {
    const size_t column = (size_t)v->c * (size_t)a->panel;
    a->first = first * v->o;
    a->tap = v->back + a->first;
    a->steps = rows * v->o;
    for (int b = 0; b < v->kw && rows; b++) {
        a->w = panels + (size_t)b * column;
        a->y = y + cnn__packed_column(v, b);
        cnn__product_run(k, a);
    }
}

/* All input channels; packed_dx must hold zeros. A row of packed dx is a sum over the output channels and the
   kernel rows that meet it. Where all lines are one, it is a kernel row at a time. */
static void cnn__conv_backward_x(const cnn__conv *v, const cnn__kernels *k, const float *panels,
                                 const float *dy, float *packed_dx) {
    int place = 0;
    cnn__product a;
    memset(&a, 0, sizeof a);
    a.rows = v->c;
    a.n = v->run;
    a.panel = v->kh * v->o;
    a.start = CNN__ACCUMULATE;
    a.ym = v->plane;
    a.slack = 1;
    for (int r = 0; r < v->sh; r++) {
        for (int i = 0; v->lines > 1 && i < v->rows; i++) {
            int first = 0;
            const int rows = cnn__meeting_rows(v, r, i, &first);
            a.x = dy + (ptrdiff_t)i * v->y_pitch;
            cnn__backward_row(v, k, &a, place + first, rows, panels, packed_dx + cnn__packed_row(v, r, i));
        }
        for (int e = 0; e < v->kh; e++) {
            if (cnn__row_phase(v, e) != r)
                continue;
            a.x = dy;
            if (v->lines == 1)
                cnn__backward_row(v, k, &a, place, 1, panels,
                                  packed_dx + cnn__packed_row(v, r, e * v->dh / v->sh));
            place++;
        }
    }
}

static void cnn__conv_backward_w(const cnn__conv *v, const cnn__kernels *k, const float *packed,
                                 const float *dy, float *dw) {
    cnn__dot a;
    memset(&a, 0, sizeof a);
    a.rows = v->o;
    a.steps = v->steps;
    a.lines = v->lines;
    a.n = v->run;
    a.tap = v->tap;
    a.x = packed;
    a.y = dy;
    a.xr = v->x_pitch;
    a.yr = v->y_pitch;
    a.ym = v->y_plane;
    a.g = dw;
    a.gm = v->steps;
    a.gk = 1;
    k->dot(&a);
}

/* ---- the planar operator ----

   Three jobs, each cut into tasks that a thread does alone, with scratch memory of its own: forward a strip
   of one image, or a part of the channels where the image is too small to cut; dx a part of the channels of
   one image, or some of its rows where channels are few; dw a part of the output channels over all images, or
   those of a slot, in turn, so that each gradient is summed in one order, whatever the number of threads. */
typedef struct cnn__conv_call {
    cnn__conv *v;
    const cnn__kernels *k;
    const float *x, *weight, *bias, *dy;
    float *y, *dx, *dw, *db;
    float *panels;
    float *sums; /* dw: the slots */
    int slots;
    int n, strips, parts, part; /* images; strips of an image; parts of a group's channels, channels in one */
    int slices;                 /* of a part's panels, packed by different threads */
    cnn__stretch *stretch;      /* depthwise */
    int stretches;
    int backward;       /* outputs as lanes: x is dy, y dx */
    size_t dy_plane;    /* dx: floats of a channel of the padded dy */
    cnn__arena *memory; /* see cnn__conv_memory */
    char *scratch;      /* for each thread `stride` bytes: a cnn__cache, then the task's own */
    size_t stride;
} cnn__conv_call;

/* What a thread's scratch begins with: what is packed there, so that the next task need not do it again. */
typedef struct cnn__cache {
    int64_t key;
} cnn__cache;

static float *cnn__conv_scratch(const cnn__conv_call *a, int thread, int64_t key, int *have) {
    cnn__cache *cache = (cnn__cache *)(void *)(a->scratch + (size_t)thread * a->stride);
    *have = cache->key == key;
    cache->key = key;
    return (float *)(void *)((char *)cache + CNN__ALIGN);
}

/* ---- forward ---- */

static void cnn__conv_panels_task(void *context, int task, int thread) {
    const cnn__conv_call *a = (const cnn__conv_call *)context;
    const cnn__conv *v = a->v;
    const int slice = task % a->slices, at = task / a->slices, group = at / a->parts;
    const int m0 = at % a->parts * a->part, m1 = cnn__min(m0 + a->part, v->o);
    const size_t weights = ((size_t)group * (size_t)v->o + (size_t)m0) * (size_t)v->steps;
    (void)thread;
    cnn__panels(a->k, a->weight + weights, (size_t)v->steps, 1, m1 - m0, v->steps, slice, a->slices,
                a->panels + weights);
}

static void cnn__conv_forward_task(void *context, int task, int thread) {
    const cnn__conv_call *a = (const cnn__conv_call *)context;
    const cnn__conv *v = a->v;
    const int unit = task / a->parts / a->strips, group = unit % v->groups;
    const int m0 = task % a->parts * a->part, m1 = cnn__min(m0 + a->part, v->o);
    const int row0 = task / a->parts % a->strips * v->strip, rows = cnn__min(v->strip, v->oh - row0);
    const size_t out = (size_t)v->oh * (size_t)v->ow, at = (size_t)group * (size_t)v->o + (size_t)m0;
    const float *x = a->x + (size_t)unit * (size_t)v->c * (size_t)v->h * (size_t)v->w;
    float *y = a->y + ((size_t)unit * (size_t)v->o + (size_t)m0) * out + (size_t)row0 * (size_t)v->ow;
    int have = 0;
    float *packed = cnn__conv_scratch(a, thread, task / a->parts + 1, &have);
    float *flat = v->direct ? packed : packed + cnn__padded((size_t)v->c * (size_t)v->plane);
    if (v->direct)
        x += (size_t)row0 * (size_t)v->w;
    else if (!have)
        cnn__pack(v, x, 0, v->c, row0, packed);
    cnn__product p;
    memset(&p, 0, sizeof p);
    p.rows = m1 - m0;
    p.steps = v->steps;
    p.tap = v->tap;
    p.x = v->direct ? x : packed;
    p.w = a->panels + at * (size_t)v->steps;
    p.panel = v->steps;
    p.bias = a->bias ? a->bias + at : NULL;
    p.start = a->bias ? CNN__BIAS : CNN__ZERO;
    p.y = v->flat ? flat : y;
    p.ym = v->y_plane;
    p.gather = 1;
    p.slack = !v->direct;
    if (v->x_pitch == v->y_pitch) {
        p.n = (size_t)(rows - 1) * (size_t)v->y_pitch + (size_t)v->ow;
        cnn__product_run(a->k, &p);
    } else {
        p.n = (size_t)v->ow;
        for (int i = 0; i < rows; i++, p.x += v->x_pitch, p.y += v->y_pitch)
            cnn__product_run(a->k, &p);
    }
    for (int m = 0; v->flat && m < m1 - m0; m++)
        a->k->copy(flat + (size_t)m * (size_t)v->y_plane, (size_t)v->y_pitch, y + (size_t)m * out,
                   (size_t)v->ow, (size_t)v->ow, rows);
}

/* ---- dx ----

   The phase (r, s) of packed dx is a product, too: over the output channels and the kernel elements of that
   phase, of dy with zeros around it. dy's rows take the pitch of the packed image, so that a row's zeros at
   the end are also those before the next. */

/* Elements of one axis of a kernel that lie in a phase. */
CNN__OUTLINE static int cnn__in_phase(int kernel, int dilation, int stride, int phase) {
    int count = 0;
    for (int e = 0; e < kernel; e++)
        count += e * dilation % stride == phase;
    return count;
}

/* Zero rows above dy, and zeros before its first row. */
static int cnn__dy_above(const cnn__conv *v) {
    return (v->kh - 1) * v->dh / v->sh;
}

static int cnn__dy_before(const cnn__conv *v) {
    return (v->kw - 1) * v->dw / v->sw;
}

/* Small images: rows of dx that meet only some rows of the kernel do without the others. The steps of a phase
   then lie kernel row by kernel row, of all outputs, otherwise output by output, whose plane stays close. */
static int cnn__dx_by_rows(const cnn__conv *v) {
    return cnn__dy_above(v) > v->rows / 8;
}

CNN__COLD static void cnn__conv_dx_taps(const cnn__conv_call *a, cnn__arena *arena) {
    cnn__conv *v = a->v;
    const int by_rows = cnn__dx_by_rows(v);
    v->tap = (int *)cnn__take(arena, (size_t)v->kh * (size_t)v->kw, sizeof *v->tap);
    v->back = (int *)cnn__take(arena, (size_t)v->o * (size_t)v->kh * (size_t)v->kw, sizeof *v->back);
    v->met = by_rows ? (int(*)[2])cnn__take(arena, (size_t)v->sh * (size_t)v->rows, sizeof *v->met) : NULL;
    int *element = v->tap, *tap = v->back;
    for (int r = 0; arena->base && r < v->sh; r++) {
        for (int s = 0; s < v->sw; s++) {
            const int height = cnn__in_phase(v->kh, v->dh, v->sh, r);
            const int width = cnn__in_phase(v->kw, v->dw, v->sw, s);
            int taps = 0;
            for (int e = 0; e < v->kh; e++)
                for (int b = 0; b < v->kw; b++)
                    if (cnn__row_phase(v, e) == r && b * v->dw % v->sw == s)
                        element[taps++] = e * v->kw + b;
            for (int i = 0; i < v->o * height; i++) {
                const int o = by_rows ? i % v->o : i / height, row = by_rows ? i / v->o : i % height;
                for (int t = row * width; t < (row + 1) * width; t++)
                    *tap++ = cnn__dy_before(v) - element[t] % v->kw * v->dw / v->sw + o * (int)a->dy_plane +
                             (cnn__dy_above(v) - element[t] / v->kw * v->dh / v->sh) * v->wq;
            }
            element += taps;
        }
        for (int i = 0; by_rows && i < v->rows; i++) {
            int *met = v->met[r * v->rows + i];
            met[1] = cnn__meeting_rows(v, r, i, &met[0]);
        }
    }
}

/* An element of n kernels side by side. */
CNN__INLINE void cnn__every_kernel(const float *w, int window, const int n, float *to) {
    CNN__UNROLL
    for (int m = 0; m < n; m++)
        to[m] = w[m * window];
}

/* `some` elements of the kernels to mr channels, of outputs o0 to o1 - 1. */
CNN__LOOPS static void cnn__dx_elements(const cnn__conv *v, const float *weight, const int *element, int some,
                                        int mr, int o0, int o1, float *panel) {
    const int window = v->kh * v->kw;
    for (int o = o0; o < o1; o++) {
        const float *w = weight + (size_t)o * (size_t)v->steps;
        if (v->sh == 1 && v->sw == 1) {
            cnn__panel(w + element[0], (size_t)window, 1, mr, some, panel);
            panel += some * mr;
            continue;
        }
        for (int e = 0; e < some; e++, panel += mr)
            if (mr == 8) /* the usual ones unrolled */
                cnn__every_kernel(w + element[e], window, 8, panel);
            else if (mr == 6)
                cnn__every_kernel(w + element[e], window, 6, panel);
            else
                cnn__every_kernel(w + element[e], window, mr, panel);
    }
}

/* What outputs o0 to o1 - 1 have in the panels of channels c to c + mr - 1, one for each phase: by rows
   [kernel row][output][element of the row][channel], else [output][element][channel]. */
CNN__LOOPS static void cnn__dx_panel(const cnn__conv *v, const float *weight, int c, int mr, int o0, int o1,
                                     float *to) {
    const int by_rows = cnn__dx_by_rows(v);
    const int *element = v->tap;
    weight += c * v->kh * v->kw;
    for (int r = 0; r < v->sh; r++)
        for (int s = 0; s < v->sw; s++) {
            const int width = cnn__in_phase(v->kw, v->dw, v->sw, s);
            const int taps = width * cnn__in_phase(v->kh, v->dh, v->sh, r), some = by_rows ? width : taps;
            float *panel = to + (size_t)c * (size_t)taps * (size_t)v->o + (size_t)(o0 * some) * (size_t)mr;
            for (int t = 0; t < taps; t += some, panel += (size_t)some * (size_t)v->o * (size_t)mr)
                cnn__dx_elements(v, weight, element + t, some, mr, o0, o1, panel);
            element += taps;
            to += (size_t)taps * (size_t)v->o * (size_t)v->c;
        }
}

/* Panels a few outputs at a time, of which the next are fetched meanwhile: each lies in a page of its own. */
static void cnn__conv_dx_panels_task(void *context, int task, int thread) {
    const cnn__conv_call *a = (const cnn__conv_call *)context;
    const cnn__conv *v = a->v;
    const int slice = task % a->slices, at = task / a->slices, group = at / a->parts;
    const int c0 = at % a->parts * a->part, c1 = cnn__min(c0 + a->part, v->c), window = v->kh * v->kw;
    const float *weight = a->weight + (size_t)group * (size_t)v->o * (size_t)v->steps;
    float *to = a->panels + (size_t)group * (size_t)v->o * (size_t)v->steps;
    int mr = 0;
    (void)thread;
    if (window == 1) {
        cnn__panels(a->k, weight + c0, 1, (size_t)v->steps, c1 - c0, v->o, slice, a->slices,
                    to + (size_t)c0 * (size_t)v->o);
        return;
    }
    for (int c = c0, i = 0; c < c1; c += mr, i++) {
        mr = cnn__panel_rows(a->k->panel, c1 - c);
        for (int o = 0, end = 0; i % a->slices == slice && o < v->o; o = end) {
            end = cnn__min(o + CNN__LANES, v->o);
            for (int next = end; v->steps >= CNN__PAGE_FLOATS && next < cnn__min(end + CNN__LANES, v->o);
                 next++)
                cnn__fetch(weight + (size_t)next * (size_t)v->steps + (size_t)(c * window),
                           (size_t)(mr * window));
            cnn__dx_panel(v, weight, c, mr, o, end, to);
        }
    }
}

/* 1x1 convolutions without stride and padding take dy as it is. */
static int cnn__dy_direct(const cnn__conv *v) {
    return v->direct && v->kh * v->kw == 1;
}

/* What rows i0 to i1 - 1 of dx's phases need of dy, with zeros around. */
static void cnn__pad_dy(const cnn__conv_call *a, const float *dy, int i0, int i1, float *to) {
    const cnn__conv *v = a->v;
    const int above = cnn__dy_above(v), from = cnn__max(i0 - above, 0), end = cnn__min(i1, v->oh);
    const size_t before =
        (size_t)cnn__dy_before(v) + (size_t)cnn__max(from - (i0 - above), 0) * (size_t)v->wq;
    memset(to, 0, (size_t)v->o * a->dy_plane * sizeof(float));
    for (int o = 0; o < v->o; o++)
        a->k->copy(dy + ((size_t)o * (size_t)v->oh + (size_t)from) * (size_t)v->ow, (size_t)v->ow,
                   to + (size_t)o * a->dy_plane + before, (size_t)v->wq, (size_t)v->ow, end - from);
}

static void cnn__conv_dx_task(void *context, int task, int thread) {
    const cnn__conv_call *a = (const cnn__conv_call *)context;
    const cnn__conv *v = a->v;
    const int unit = task / a->parts / a->strips, group = unit % v->groups;
    const int c0 = task % a->parts * a->part, c1 = cnn__min(c0 + a->part, v->c);
    const int strip = task / a->parts % a->strips, h0 = (int)((int64_t)v->h * strip / a->strips);
    const int h1 = (int)((int64_t)v->h * (strip + 1) / a->strips); /* rows of dx; all, with other padding */
    const size_t image = (size_t)v->h * (size_t)v->w;
    float *dx = a->dx + (size_t)unit * (size_t)v->c * image;
    const int zeros = v->mode == CNN_PAD_ZEROS; /* of other padding all is needed, to be added up */
    const int i0 = zeros ? (h0 + v->pt) / v->sh : 0;
    const int i1 = zeros ? cnn__min(cnn__ceil_div(h1 + v->pt, v->sh), v->rows) : v->rows;
    const float *dy = a->dy + (size_t)unit * (size_t)v->o * (size_t)v->oh * (size_t)v->ow;
    int begin = 0; /* the row of the phases that dy, or its packed rows, begin with */
    int have = 0;
    float *room = cnn__conv_scratch(a, thread, (int64_t)unit * a->strips + strip + 1, &have);
    float *packed = v->direct ? dx + (size_t)c0 * image : room + cnn__padded((size_t)v->o * a->dy_plane);
    if (!cnn__dy_direct(v)) {
        if (!have)
            cnn__pad_dy(a, dy, i0, i1, room);
        dy = room;
        begin = i0;
    }
    const float *panels = a->panels + (size_t)group * (size_t)v->o * (size_t)v->steps;
    cnn__product p;
    memset(&p, 0, sizeof p);
    const int *back = v->back;
    p.rows = c1 - c0;
    p.ym = v->plane;
    p.gather = 1;
    p.slack = !cnn__dy_direct(v);
    p.start = CNN__ZERO;
    for (int r = 0; r < v->sh; r++)
        for (int s = 0; s < v->sw; s++) {
            const int width = cnn__in_phase(v->kw, v->dw, v->sw, s), line = width * v->o;
            const int taps = width * cnn__in_phase(v->kh, v->dh, v->sh, r);
            int(*const met)[2] = v->met ? v->met + r * v->rows : NULL;
            int from = 0, to = v->rows, left = 0, right = v->wq;
            if (zeros) { /* of the padding nothing is needed */
                cnn__inside(s, v->sw, v->pl, v->w, v->wq, &left, &right);
                from = cnn__ceil_div(cnn__max(h0 + v->pt - r, 0), v->sh);
                to = cnn__min(cnn__ceil_div(cnn__max(h1 + v->pt - r, 0), v->sh), v->rows);
            }
            p.w = panels + (size_t)c0 * (size_t)taps * (size_t)v->o;
            p.panel = taps * v->o;
            for (int i = from, end = to; i < to; i = end, end = to) {
                if (met) /* rows that meet the same rows of the kernel */
                    for (end = i + 1; end < to && !memcmp(met[i], met[end], sizeof *met);)
                        end++;
                p.first = met ? met[i][0] * line : 0;
                p.steps = met ? met[i][1] * line : taps * v->o;
                p.tap = back + p.first;
                p.n = (size_t)(end - i - 1) * (size_t)v->wq + (size_t)right;
                p.x = dy + (size_t)(i - begin) * (size_t)v->wq;
                p.y = packed + cnn__packed_row(v, r, i) + (size_t)s * (size_t)v->rows * (size_t)v->wq;
                cnn__product_run(a->k, &p);
            }
            back += taps * v->o;
            panels += (size_t)v->c * (size_t)taps * (size_t)v->o;
        }
    if (!v->direct)
        cnn__unpack(v, a->k, packed, c0, c1, h0, h1, dx);
}

/* ---- dw ----

   With the image transposed, pixel after pixel with its channels together, a row of the kernel sees kw*c
   neighbouring floats: dw[a] += sum over pixels of dy[o][pixel] * those. That is a product whose steps are
   the pixels. A dilated kernel takes c of them at a time. */

/* Floats of a run, and how many runs there are in a kernel. */
static int cnn__dw_run(const cnn__conv *v) {
    return v->dw == 1 ? v->kw * v->c : v->c;
}

/* Of a row of c planes n columns, a multiple of 4, of whole quadruples of channels. 16 columns of 16 channels at a
   time, whole cache lines of both sides, while those of the next 16 channels are fetched, or of the next row,
   `next` floats on (0: there is none). */
CNN__LOOPS static void cnn__pixel_columns(const float *row, size_t image, size_t c, int n, size_t next,
                                          float *to) {
    for (size_t k0 = 0; k0 + 4 <= c; k0 += 16)
        for (int j0 = 0; j0 < n; j0 += 16)
            for (size_t k = k0; k + 4 <= c && k < k0 + 16; k += 4) {
                const float *from = row + k * image + j0;
                const float *ahead = k + 20 <= c ? from + 16 * image : from - k0 * image + next;
                for (size_t m = 0; m < 4 && (next || k + 20 <= c); m++)
                    CNN__PREFETCH(ahead + m * image);
                for (int j = j0; j < n && j < j0 + 16; j += 4, from += 4)
                    cnn__transpose4(from, image, to + (size_t)j * c + k, c);
            }
}

/* Rows of a padded image, pixel after pixel, v->wp in a row. */
CNN__LOOPS static void cnn__to_pixels(const cnn__conv *v, const float *x, int row0, int rows, float *to) {
    const size_t image = (size_t)v->h * (size_t)v->w, c = (size_t)v->c;
    int from = 0, end = 0;
    cnn__inside(0, 1, v->pl, v->w, v->wp, &from, &end);
    for (int i = 0; i < rows; i++, to += (size_t)v->wp * c) {
        const int source = row0 + i < v->hp ? cnn__source(row0 + i, v->pt, v->h, v->mode) : -1;
        if (source < 0) {
            memset(to, 0, (size_t)v->wp * c * sizeof(float));
            continue;
        }
        const float *row = x + (size_t)source * (size_t)v->w;
        const int whole = from + (end > from ? (end - from) / 4 * 4 : 0);
        cnn__pixel_columns(row + (from - v->pl), image, c, whole - from, source + 1 < v->h ? (size_t)v->w : 0,
                           to + (size_t)from * c);
        for (size_t k = 0; k < c; k++)
            for (int j = k < c / 4 * 4 ? whole : from; j < end; j++)
                to[(size_t)j * c + k] = row[k * image + (size_t)(j - v->pl)];
        for (int j = 0; j < v->wp; j++) {
            if (j == from && end > from)
                j = end;
            const int at = j < v->wp ? cnn__source(j, v->pl, v->w, v->mode) : -1;
            for (size_t k = 0; k < c && j < v->wp; k++)
                to[(size_t)j * c + k] = at < 0 ? 0.0f : row[k * image + (size_t)at];
        }
    }
}

/* The share of lanes that count where runs of n floats are done by vectors, and each run costs one vector more. */
static double cnn__filled(int n) {
    const int lanes = cnn__k()->lanes;
    return (double)n / (double)(((int64_t)n / lanes + (n % lanes > 0) + 1) * lanes);
}

/* Without transposing, by dot products of shifted planes: where lines fill vectors better than a kernel's rows
   of all channels do, and for 1x1 convolutions of large planes to not too many outputs. */
static int cnn__dw_dots(const cnn__conv *v) {
    return v->direct && v->kh * v->kw == 1
               ? (int64_t)v->oh * v->ow >= CNN__DOT_PLANE && v->o < CNN__DOT_OUTPUTS
               : cnn__filled(v->ow) > cnn__filled(cnn__dw_run(v));
}

CNN__COLD static void cnn__conv_dw_taps(const cnn__conv *v, int rows, cnn__arena *arena, int **tap) {
    *tap = (int *)cnn__take(arena, (size_t)rows * (size_t)v->ow, sizeof(int));
    for (int i = 0; arena->base && i < rows; i++)
        for (int j = 0; j < v->ow; j++)
            (*tap)[i * v->ow + j] = (i * v->sh * v->wp + j * v->sw) * v->c;
}

/* The gradients of `count` output channels from `rows` rows: dy their first; x packed, or the image itself. */
static void cnn__conv_dw_dots(const cnn__conv_call *a, const float *x, const float *dy, int count, int rows,
                              float *dw) {
    const cnn__conv *v = a->v;
    const int flat = v->x_pitch == v->ow, lines = flat ? 1 : rows;
    const int some = flat ? 1 : cnn__max(CNN__DOT_PIXELS / v->ow, 1);
    const size_t n = (size_t)v->ow * (size_t)(flat ? rows : 1);
    cnn__dot d;
    memset(&d, 0, sizeof d);
    d.rows = count;
    d.xr = v->x_pitch;
    d.yr = v->ow;
    d.ym = (ptrdiff_t)v->oh * v->ow;
    d.gm = v->steps;
    d.gk = 1;
    for (int i = 0; i < lines; i += some)
        for (size_t j = 0; j < n; j += CNN__DOT_PIXELS)
            for (int k = 0; k < v->steps; k += CNN__DOT_STEPS) {
                d.steps = cnn__min(CNN__DOT_STEPS, v->steps - k);
                d.lines = cnn__min(some, lines - i);
                d.n = n - j < CNN__DOT_PIXELS ? n - j : CNN__DOT_PIXELS;
                d.tap = v->tap + k;
                d.x = x + i * d.xr + (ptrdiff_t)j;
                d.y = dy + i * d.yr + (ptrdiff_t)j;
                d.g = dw + k;
                a->k->dot(&d);
            }
}

/* Output rows of a strip that stays in the second-level cache, packed, but for few rows beyond them. */
static int cnn__packed_rows(const cnn__conv *v) {
    const int64_t row = (int64_t)v->c * v->sh * v->sw * v->wq;
    const int halo = (v->kh - 1) * v->dh / v->sh, fits = (int)(CNN__STRIP_FLOATS / row) - halo;
    return cnn__clamp(fits, cnn__min(2 * halo + 2, v->oh), v->oh);
}

/* Pieces of each of so many units: a few more, at most `most`, where the threads then have equal shares. */
static int cnn__even_pieces(int pieces, int64_t units, int threads, int most) {
    int more = pieces;
    while (units * more % threads && more < most && units * more < 4 * (int64_t)threads)
        more++;
    return units * more % threads ? pieces : more;
}

/* Channels in a part, a multiple of `unit`, for `parts` parts at most. */
static int cnn__part(int channels, int parts, int unit) {
    return cnn__min(channels, cnn__ceil_div(cnn__ceil_div(channels, parts), unit) * unit);
}

/* The same where panels are to stay whole. */
static int cnn__conv_part(int channels, int parts) {
    return cnn__part(channels, parts, cnn__k()->panel);
}

/* Floats of a slot. Where images are many and weights few, a fixed number of slots of images have sums of
   their own, to be added up in order. */
CNN__OUTLINE static size_t cnn__dw_slot(const cnn__conv *v) {
    return cnn__padded((size_t)(v->groups * v->o) * (size_t)(v->steps + 1));
}

/* Powers of two: most often as many for every thread. */
static int cnn__slots(int64_t worth, int most) {
    int slots = 1;
    while (2 * slots <= most && 2 * slots <= worth)
        slots *= 2;
    return slots;
}

static int cnn__dw_slots(const cnn__conv *v, int n) {
    return cnn__dw_slot(v) > CNN__SLOT_WEIGHTS ? 1 : cnn__slots(n / 8, 16);
}

/* Output channels that a thread takes. */
static int cnn__dw_part(const cnn__conv *v, int slots, int threads) {
    const int units = slots * v->groups, parts = cnn__ceil_div(threads, units);
    return cnn__conv_part(v->o, cnn__even_pieces(parts, units, threads, v->o / cnn__k()->panel));
}

/* What the slots have for one output channel, to its gradients. */
static void cnn__dw_slots_task(void *context, int m, int thread) {
    const cnn__conv_call *a = (const cnn__conv_call *)context;
    const size_t slot = cnn__dw_slot(a->v), steps = (size_t)a->v->steps, at = (size_t)m * steps;
    const float *own = a->sums, *own_db = own + slot - (size_t)(a->v->groups * a->v->o);
    (void)thread;
    for (int s = 0; s < a->slots; s++, own += slot, own_db += slot) {
        if (a->dw)
            a->k->add(a->dw + at, own + at, steps);
        if (a->db)
            a->db[m] += own_db[m];
    }
}

static void cnn__dw_slots_add(cnn__conv_call *a, int threads) {
    const int outputs = a->v->groups * a->v->o;
    const double sums = (double)a->slots * outputs * a->v->steps;
    if (a->slots > 1)
        cnn__parallel(sums < CNN__SMALL_WORK ? 1 : threads, outputs, cnn__dw_slots_task, a);
}

/* Adds an output channel's sums to dw, [channel][kh][kw]: those of the runs lie so far apart, and are
   [column][channel]. */
CNN__LOOPS static void cnn__dw_add(const cnn__conv *v, const cnn__kernels *k, const float *sum, size_t apart,
                                   int columns, float *dw) {
    const int window = v->kh * v->kw, whole = v->c / 4 * 4;
    if (window == 1)
        k->add(dw, sum, (size_t)v->c);
    for (int e = 0, some = 0; window > 1 && e < window; e += some) {
        const float *row[4];
        int c = 0;
        some = window - e >= 4 ? 4 : 1;
        for (int i = 0; i < some; i++)
            row[i] = sum + (size_t)((e + i) / columns) * apart + (size_t)((e + i) % columns * v->c);
        for (; some == 4 && c < whole; c += 4)
            cnn__transpose4_rows(row, (size_t)c, dw + (size_t)c * (size_t)window + e, (size_t)window, 1);
        for (; c < v->c; c++)
            for (int i = 0; i < some; i++)
                dw[(size_t)c * (size_t)window + (size_t)(e + i)] += row[i][c];
    }
}

static void cnn__conv_dw_task(void *context, int task, int thread) {
    const cnn__conv_call *a = (const cnn__conv_call *)context;
    const cnn__conv *v = a->v;
    const int slot = task / a->parts / v->groups, group = task / a->parts % v->groups;
    const int m0 = task % a->parts * a->part, m1 = cnn__min(m0 + a->part, v->o);
    const int run = cnn__dw_run(v), runs = v->kh * (v->dw == 1 ? 1 : v->kw), part = m1 - m0;
    const size_t out = (size_t)v->oh * (size_t)v->ow, image = (size_t)v->h * (size_t)v->w;
    const size_t first = (size_t)group * (size_t)v->o + (size_t)m0;
    const int pixel_rows = (v->strip - 1) * v->sh + (v->kh - 1) * v->dh + 1, dots = cnn__dw_dots(v);
    const int images = (int)((int64_t)a->n * slot / a->slots),
              end = (int)((int64_t)a->n * (slot + 1) / a->slots);
    float *const own = a->slots > 1 ? a->sums + (size_t)slot * cnn__dw_slot(v) : NULL; /* dw, db */
    float *const all_dw = own ? own : a->dw;
    float *const all_db = own && a->db ? own + cnn__dw_slot(v) - (size_t)(v->groups * v->o) : a->db;
    int have = 0;
    float *pixels = cnn__conv_scratch(a, thread, 0, &have);
    float *panels = pixels + cnn__padded((size_t)pixel_rows * (size_t)v->wp * (size_t)v->c);
    float *sum = panels + cnn__padded((size_t)a->part * (size_t)v->strip * (size_t)v->ow);
    cnn__product p;
    memset(&p, 0, sizeof p);
    p.rows = part;
    p.n = (size_t)run;
    p.tap = v->tap;
    p.w = panels;
    p.ym = run;
    p.gather = 1;
    p.slack = 1;
    for (int i = images; i < end; i++) {
        const size_t unit = (size_t)i * (size_t)v->groups + (size_t)group;
        const float *dy = a->dy + (unit * (size_t)v->o + (size_t)m0) * out;
        for (int m = 0; a->db && m < part; m++)
            all_db[first + (size_t)m] += a->k->sum(dy + (size_t)m * out, out);
        for (int row = 0; a->dw && dots && row < v->oh; row += v->strip) {
            const float *x = a->x + unit * (size_t)v->c * image;
            if (!v->direct)
                cnn__pack(v, x, 0, v->c, row, pixels);
            cnn__conv_dw_dots(a, v->direct ? x : pixels, dy + (size_t)row * (size_t)v->ow, part,
                              cnn__min(v->strip, v->oh - row), all_dw + first * (size_t)v->steps);
        }
        for (int row = 0; a->dw && !dots && row < v->oh; row += v->strip) {
            const int rows = cnn__min(v->strip, v->oh - row);
            cnn__to_pixels(v, a->x + unit * (size_t)v->c * image, row * v->sh,
                           (rows - 1) * v->sh + (v->kh - 1) * v->dh + 1, pixels);
            p.steps = rows * v->ow;
            p.panel = p.steps;
            p.start = i > images || row ? CNN__ACCUMULATE : CNN__ZERO;
            cnn__panels(a->k, dy + (size_t)row * (size_t)v->ow, out, 1, part, p.steps, 0, 1, panels);
            for (int j = 0; j < runs; j++) {
                const int e = v->dw == 1 ? j : j / v->kw, b = v->dw == 1 ? 0 : j % v->kw;
                p.x = pixels + ((size_t)(e * v->dh) * (size_t)v->wp + (size_t)(b * v->dw)) * (size_t)v->c;
                p.y = sum + (size_t)j * (size_t)part * (size_t)run;
                cnn__product_run(a->k, &p);
            }
        }
    }
    const int columns = v->dw == 1 ? v->kw : 1; /* kernel columns in a run */
    for (int m = 0; a->dw && !dots && m < part; m++)
        cnn__dw_add(v, a->k, sum + (size_t)m * (size_t)run, (size_t)part * (size_t)run, columns,
                    all_dw + (first + (size_t)m) * (size_t)v->steps);
}

/* ---- planning and running ----

   A call's jobs are gone through twice: first each only says how much memory it wants, one after the other in
   the same place; then they run. So a failure to get it leaves the outputs untouched. */

static int cnn__conv_memory(const cnn__conv_call *a, const cnn__arena *arena) {
    if (arena->used > a->memory->used)
        a->memory->used = arena->used;
    return arena->base != NULL;
}

/* Runs one job: tasks of `need` floats of scratch a thread. Tables and panels are the caller's. */
static void cnn__conv_run(cnn__conv_call *a, int threads, int tasks, cnn__task task) {
    for (int t = 0; t < threads; t++)
        ((cnn__cache *)(void *)(a->scratch + (size_t)t * a->stride))->key = 0;
    cnn__parallel(threads, tasks, task, a);
}

CNN__OUTLINE static int cnn__conv_threads(const cnn__conv *v, int n) {
    return cnn__threads_for((double)n * v->groups * v->o * (double)v->steps * v->oh * (double)v->ow);
}

/* Bytes of the scratch memory of all threads, each with so many floats. */
static size_t cnn__conv_scratch_bytes(cnn__conv_call *a, int threads, size_t floats) {
    a->stride = cnn__add(2 * CNN__ALIGN, cnn__round_up(cnn__mul(floats, sizeof(float)), CNN__ALIGN));
    return cnn__mul(a->stride, (size_t)threads);
}

CNN__COLD static cnn_status cnn__conv_too_many(const char *where, const cnn__conv_call *a) {
    return cnn__fail(CNN_ERR_SHAPE, "%s: %d images of %d groups are too many for one call", where, a->n,
                     a->v->groups);
}

/* Strips, so many that there is work for all threads. Images too small for that are cut by channels, `unit`
   of which stay together, and so are those that have fewer floats than their weights: a thread then packs and
   reads weights of its own, and none that another core has packed. */
static void cnn__conv_cut(cnn__conv_call *a, int threads, int unit) {
    cnn__conv *v = a->v;
    const int64_t units = (int64_t)a->n * v->groups;
    int strips = v->direct ? 1 : cnn__ceil_div(v->oh, cnn__packed_rows(v));
    a->parts = 1;
    if (units * strips < threads) {
        const int wanted = (int)((threads + units - 1) / units), enough = v->o / unit / wanted > 1;
        const int heavy = (double)v->o * v->steps > (double)v->c * v->h * v->w;
        if (v->oh >= wanted && v->oh / wanted * v->ow >= CNN__STRIP_COLUMNS && !(heavy && enough))
            strips = cnn__max(strips, wanted);
        else
            a->parts = wanted;
    }
    if (a->parts == 1)
        strips = cnn__even_pieces(strips, units, threads, v->oh / cnn__ceil_div(CNN__STRIP_COLUMNS, v->ow));
    cnn__conv_strips(v, cnn__ceil_div(v->oh, strips));
    a->strips = cnn__ceil_div(v->oh, v->strip);
    a->part = cnn__part(v->o, a->parts, unit);
    a->parts = cnn__ceil_div(v->o, a->part);
    a->slices = v->groups < threads ? threads : 1;
}

static cnn_status cnn__conv_run_forward(const char *where, cnn__conv_call *a) {
    cnn__conv *v = a->v;
    const int threads = cnn__conv_threads(v, a->n);
    cnn__arena arena = {a->memory->base, 0};
    v->flat = v->wq != v->ow && v->ow < 128; /* narrow rows as one line, at the pitch of the packed image */
    v->y_pitch = v->flat ? v->wq : v->ow;
    cnn__conv_cut(a, threads, a->k->panel);
    const int64_t tasks = (int64_t)a->n * v->groups * a->strips * a->parts;
    if (tasks > INT_MAX)
        return cnn__conv_too_many(where, a);
    const size_t own = cnn__padded(v->direct ? 0 : (size_t)v->c * (size_t)v->plane) +
                       (v->flat ? (size_t)a->part * (size_t)v->y_plane : 0);
    const size_t scratch = cnn__conv_scratch_bytes(a, threads, own);
    cnn__conv_taps(v, &arena);
    a->panels = cnn__take_floats(&arena, (size_t)v->groups * (size_t)v->o * (size_t)v->steps);
    a->scratch = (char *)cnn__take(&arena, scratch, 1);
    if (!cnn__conv_memory(a, &arena))
        return CNN_OK;
    cnn__parallel(threads, v->groups * a->parts * a->slices, cnn__conv_panels_task, a);
    cnn__conv_run(a, threads, (int)tasks, cnn__conv_forward_task);
    return CNN_OK;
}

/* The convolution by which dx is computed from dy. */
static cnn__conv cnn__conv_reverse(const cnn__conv *v) {
    cnn__conv r = *v;
    r.c = v->o;
    r.o = v->c;
    r.h = v->oh;
    r.w = v->ow;
    r.oh = v->h;
    r.ow = v->w;
    r.pt = (v->kh - 1) * v->dh - v->pt;
    r.pl = (v->kw - 1) * v->dw - v->pl;
    r.y_pitch = v->w;
    r.hp = r.hq = v->h + (v->kh - 1) * v->dh;
    r.wp = r.wq = r.x_pitch = v->w + (v->kw - 1) * v->dw;
    r.steps = v->o * v->kh * v->kw;
    return r;
}

/* ---- outputs as lanes ----

   Rows of the output need not fill vectors where the outputs themselves do: no column is wasted or gathered.
   With stride 1 and zeros, dx is the same over dy with the kernel turned around, which reversed taps do. */

static void cnn__lanes_panels_task(void *context, int task, int thread) {
    const cnn__conv_call *a = (const cnn__conv_call *)context;
    (void)thread;
    cnn__lanes_panel(a->v, a->weight, a->backward, task, a->panels);
}

static void cnn__lanes_task(void *context, int task, int thread) {
    const cnn__conv_call *a = (const cnn__conv_call *)context;
    const cnn__conv *v = a->v;
    const int unit = task / a->parts / a->strips, group = unit % v->groups;
    const int m0 = task % a->parts * a->part, m1 = cnn__min(m0 + a->part, v->o);
    const int row0 = task / a->parts % a->strips * v->strip, rows = cnn__min(v->strip, v->oh - row0);
    const size_t out = (size_t)v->oh * (size_t)v->ow, at = (size_t)(group * v->o + m0);
    const size_t first = (size_t)group * (size_t)cnn__ceil_div(v->o, CNN__LANES) * CNN__LANES + (size_t)m0;
    int have = 0;
    float *packed = cnn__conv_scratch(a, thread, task / a->parts + 1, &have);
    if (!have)
        cnn__pack(v, a->x + (size_t)unit * (size_t)v->c * (size_t)v->h * (size_t)v->w, 0, v->c, row0, packed);
    cnn__conv_lanes(v, a->k, packed, a->panels + first * (size_t)v->steps, a->bias ? a->bias + at : NULL,
                    NULL, m1 - m0, rows, packed + cnn__lanes_packed(v),
                    a->y + ((size_t)unit * (size_t)v->o + (size_t)m0) * out + (size_t)row0 * (size_t)v->ow);
}

/* v is forward's geometry or the reverse. */
CNN__COLD static cnn_status cnn__lanes_run(const char *where, cnn__conv_call *a, const cnn__conv *geometry) {
    cnn__conv v = *geometry;
    const int threads = cnn__conv_threads(&v, a->n), panels = v.groups * cnn__ceil_div(v.o, CNN__LANES);
    const int window = v.kh * v.kw;
    cnn__arena arena = {a->memory->base, 0};
    a->v = &v;
    v.direct = 0; /* tiles read beyond the image's end */
    cnn__conv_cut(a, threads, CNN__LANES);
    const int64_t tasks = (int64_t)a->n * v.groups * a->strips * a->parts;
    if (tasks > INT_MAX)
        return cnn__conv_too_many(where, a);
    const size_t scratch =
        cnn__conv_scratch_bytes(a, threads, cnn__add(cnn__lanes_packed(&v), cnn__lanes_floats(&v, v.strip)));
    cnn__conv_taps(&v, &arena);
    a->panels = cnn__take_floats(&arena, cnn__lanes_weights(&v));
    a->scratch = (char *)cnn__take(&arena, scratch, 1);
    if (!cnn__conv_memory(a, &arena))
        return CNN_OK;
    for (int k = 0; a->backward && k < v.steps; k++) {
        const int other = k + window - 1 - 2 * (k % window), tap = v.tap[k];
        if (other > k) {
            v.tap[k] = v.tap[other];
            v.tap[other] = tap;
        }
    }
    cnn__parallel(threads, panels, cnn__lanes_panels_task, a);
    cnn__conv_run(a, threads, (int)tasks, cnn__lanes_task);
    return CNN_OK;
}

/* ---- depthwise ----

   One input channel a group and few outputs: little work on each element, so all of it in the first-level
   cache. A strip of a plane is packed there, and tiles of CNN__BAND rows and one vector read it. The zeros
   around stay from plane to plane. With stride 1 and zeros, dx is the same over dy with the kernel turned
   around: v->c channels to one. */

/* The kernel in stretches of up to CNN__TALL elements of a column that meet neighbouring packed rows. Returns
   how many. */
CNN__COLD static int cnn__depthwise_stretches(const cnn__conv *v, int flip, int lead, cnn__stretch *to) {
    const int window = v->kh * v->kw;
    int step = 1, count = 0; /* from one element to the next of the same phase */
    while (step * v->dh % v->sh)
        step++;
    const int firsts = cnn__min(step, v->kh), most = step * v->dh == v->sh ? CNN__TALL : 1;
    for (int rows = most; rows > 0; rows--) /* the tallest first */
        for (int k = 0; k < v->c * v->kw * firsts; k++) {
            const int c = k / firsts / v->kw, b = k / firsts % v->kw, first = k % firsts;
            const int elements = (v->kh - first + step - 1) / step, rest = elements % most;
            const int begin = rows == most ? 0 : elements - rest;
            const int end = rows == most ? elements - rest : rows == rest ? elements : begin;
            for (int i = begin; i < end; i += rows) {
                const int e = first + i * step;
                cnn__stretch *s = to + count++;
                s->tap = lead + c * v->plane + cnn__packed_row(v, e * v->dh % v->sh, e * v->dh / v->sh) +
                         cnn__packed_column(v, b);
                s->rows = rows;
                for (int j = 0; j < rows; j++) {
                    const int at = (e + j * step) * v->kw + b;
                    s->at[j] = c * window + (flip ? window - 1 - at : at);
                }
            }
        }
    return count;
}

/* A packed strip, and what tiles may read beyond it. */
static size_t cnn__depthwise_floats(const cnn__conv *v) {
    return (size_t)v->c * (size_t)v->plane + CNN__BAND * (size_t)v->wq + CNN__LANES;
}

/* Packs a strip, and tells the kernel of it; returns room for CNN__TALL weights a stretch. */
static float *cnn__depthwise_strip(const cnn__conv_call *a, int unit, int strip, int thread,
                                   cnn__depthwise *d) {
    const cnn__conv *v = a->v;
    const int row0 = strip * v->strip;
    const float *x = a->x + (size_t)unit * (size_t)v->c * (size_t)v->h * (size_t)v->w;
    int have = 0;
    float *packed = cnn__conv_scratch(a, thread, strip + 1, &have);
    if (!have)
        memset(packed, 0, a->stride - CNN__ALIGN);
    cnn__repack(v, x, 0, v->c, row0, packed);
    memset(d, 0, sizeof *d);
    d->lines = cnn__min(v->strip, v->oh - row0);
    d->n = v->ow;
    d->stretch = a->stretch;
    d->stretches = a->stretches;
    d->x = packed;
    d->xr = v->wq;
    d->yr = v->ow;
    return packed + cnn__depthwise_floats(v);
}

/* A strip of a plane; planes before strips, for the zeros' sake. */
static void cnn__depthwise_task(void *context, int task, int thread) {
    const cnn__conv_call *a = (const cnn__conv_call *)context;
    const cnn__conv *v = a->v;
    const int units = a->n * v->groups, unit = task % units, strip = task / units;
    const size_t out = (size_t)v->oh * (size_t)v->ow;
    cnn__depthwise d;
    float *w = cnn__depthwise_strip(a, unit, strip, thread, &d);
    for (int m = 0; m < v->o; m++) {
        const size_t at = (size_t)(unit % v->groups) * (size_t)v->o + (size_t)m;
        for (int k = 0; k < a->stretches; k++)
            for (int e = 0; e < a->stretch[k].rows; e++)
                w[k * CNN__TALL + e] = a->weight[at * (size_t)v->steps + (size_t)a->stretch[k].at[e]];
        d.w = w;
        d.bias = a->bias ? a->bias[at] : 0.0f;
        d.y = a->y + ((size_t)unit * (size_t)v->o + (size_t)m) * out +
              (size_t)strip * (size_t)v->strip * (size_t)v->ow;
        a->k->depthwise(&d);
    }
}

/* dw and db of a group. */
static void cnn__depthwise_dw_task(void *context, int group, int thread) {
    const cnn__conv_call *a = (const cnn__conv_call *)context;
    const cnn__conv *v = a->v;
    const size_t out = (size_t)v->oh * (size_t)v->ow;
    const size_t sums = (size_t)a->stretches * CNN__TALL, vectors = sums * (size_t)v->o * CNN__LANES;
    float *lanes = a->panels + (size_t)thread * cnn__padded(vectors + sums), *g = lanes + vectors;
    memset(lanes, 0, vectors * sizeof(float));
    for (int strip = 0; a->dw && strip < a->strips; strip++)
        for (int i = 0; i < a->n; i++) {
            const int unit = i * v->groups + group;
            cnn__depthwise d;
            cnn__depthwise_strip(a, unit, strip, thread, &d);
            for (int m = 0; m < v->o; m++) {
                d.dy = a->dy + ((size_t)unit * (size_t)v->o + (size_t)m) * out +
                       (size_t)strip * (size_t)v->strip * (size_t)v->ow;
                d.lanes = lanes + (size_t)m * sums * (size_t)a->k->lanes;
                a->k->depthwise_dot(&d);
            }
        }
    for (int m = 0; m < v->o; m++) {
        const size_t at = (size_t)group * (size_t)v->o + (size_t)m;
        for (int i = 0; a->db && i < a->n; i++)
            a->db[at] += a->k->sum(
                a->dy + (((size_t)i * (size_t)v->groups + (size_t)group) * (size_t)v->o + (size_t)m) * out,
                out);
        if (!a->dw)
            continue;
        memset(g, 0, sums * sizeof(float));
        a->k->fold(lanes + (size_t)m * sums * (size_t)a->k->lanes, g, sums);
        for (int k = 0; k < a->stretches; k++)
            for (int e = 0; e < a->stretch[k].rows; e++)
                a->dw[at * (size_t)v->steps + (size_t)a->stretch[k].at[e]] += g[k * CNN__TALL + e];
    }
}

/* Output rows of a strip: whole bands, as many as the first-level cache holds. */
static int cnn__depthwise_rows(const cnn__conv *v) {
    const int halo = (v->kh - 1) * v->dh / v->sh;
    const int64_t row = (int64_t)v->c * v->sh * v->sw * v->wq, fits = CNN__BAND_FLOATS / row - halo;
    const int rows = fits < CNN__BAND ? CNN__BAND : (int)(fits / CNN__BAND * CNN__BAND);
    return row * (rows + halo + CNN__BAND) > CNN__STRIP_FLOATS ? 0 : rows;
}

/* Rows of pixels begin where vectors do, at the cost of a few columns on the left: returns how many. */
static int cnn__depthwise_align(cnn__conv *v) {
    const int line = CNN__ALIGN / (int)sizeof(float), lead = -v->pl & (line - 1);
    if (!cnn__pack_plain(v) || v->sh > 1 || v->sw > 1)
        return 0;
    v->pl += lead;
    v->wq = v->x_pitch = (v->wq + lead + line - 1) / line * line;
    return lead;
}

/* v is forward's geometry or the reverse; task one of the two above. */
CNN__COLD static cnn_status cnn__depthwise_run(const char *where, cnn__conv_call *a,
                                               const cnn__conv *geometry, int flip, cnn__task task) {
    cnn__conv v = *geometry;
    const int threads = cnn__conv_threads(&v, a->n), rows = cnn__depthwise_rows(&v);
    cnn__arena arena = {a->memory->base, 0};
    a->v = &v;
    v.direct = v.flat = 0;
    const int lead = cnn__depthwise_align(&v);
    const int64_t units = (int64_t)a->n * v.groups;
    int strips = cnn__ceil_div(v.oh, rows);
    if (task == cnn__depthwise_task && units * strips < threads)
        strips = cnn__min(threads, cnn__ceil_div(v.oh, CNN__BAND));
    cnn__conv_strips(&v, (cnn__ceil_div(v.oh, strips) + CNN__BAND - 1) / CNN__BAND * CNN__BAND);
    a->strips = cnn__ceil_div(v.oh, v.strip);
    if (units * a->strips > INT_MAX)
        return cnn__conv_too_many(where, a);
    const size_t scratch =
        cnn__conv_scratch_bytes(a, threads, cnn__depthwise_floats(&v) + (size_t)v.steps * CNN__TALL);
    const size_t sums = (size_t)v.steps * CNN__TALL * (size_t)v.o;
    a->stretch = (cnn__stretch *)cnn__take(&arena, (size_t)v.steps, sizeof *a->stretch);
    a->panels = NULL;
    if (task == cnn__depthwise_dw_task)
        a->panels = cnn__take_floats(&arena, cnn__mul((size_t)threads, cnn__padded(sums * (CNN__LANES + 1))));
    a->scratch = (char *)cnn__take(&arena, scratch, 1);
    if (!cnn__conv_memory(a, &arena))
        return CNN_OK;
    a->stretches = cnn__depthwise_stretches(&v, flip, lead, a->stretch);
    cnn__conv_run(a, threads, task == cnn__depthwise_task ? (int)units * a->strips : v.groups, task);
    return CNN_OK;
}

/* ---- Winograd ----

   A run of tiles (4x4 outputs each, in reading order) at a time, of one image or of several small ones: their
   6x6 inputs of all channels transformed to V[element][channel][tile]; then for a few output channels at a
   time their weights transformed to panels U[element], the 36 products M[element] = U[element] V[element],
   and M transformed back. One element of V, U and M after the other passes through the second-level cache;
   where U of all channels is small, it is kept from run to run. The elements lie a cache line further apart
   than their size, lest all fall into the same sets of the cache. Where U is not kept, or runs are few,
   threads share a run's outputs. Each then has a V of its own: it is cheap to make beside being read from
   where another core made it, once for each of the groups of outputs.

   One small image has too few tiles to fill vectors, and where they fill one, its products are bound by
   loads: 25 for 24 multiply-adds. There the products have outputs as lanes (10 loads), and so has what comes
   back from M.

   What the transforms' factors cost in accuracy: see cnn_conv2d_forward. */
typedef struct cnn__wino {
    cnn__conv v;                            /* the image, padded to whole tiles; padding may be negative */
    int rows, steps, oh, ow, tiles, across; /* output channels, input channels, tiles of an image, in a row */
    int flip;                               /* dx: kernels turned around */
    int kept;                               /* U of all channels, from run to run */
    size_t rs, ks;                          /* weight of (row, step) at row*rs + step*ks */
    int images, pieces; /* whole images in a run, if they are small; runs of such, or images */
    int run;            /* tiles in a run, to a multiple of vectors */
    int group, depth;   /* output channels at a time, and input channels of their weights */
    int runs;           /* of an image */
    int part, parts;    /* output channels of a task, and tasks of a run */
    int by_lanes;       /* outputs as lanes, of one image */
    size_t u_pitch, v_pitch, m_pitch;
} cnn__wino;

typedef struct cnn__wino_call {
    const cnn__wino *w;
    const cnn__kernels *k;
    const float *x, *weight, *bias;
    float *y;
    const int *tap;
    int n, groups;
    size_t x_unit, y_unit, weight_group;
    char *scratch;
    size_t stride;
} cnn__wino_call;

/* Whether the products of n images have outputs as lanes: those of one image whose tiles fill but one vector,
   or leave a tenth of the lanes empty, which no more than nine vectors can. */
static int cnn__wino_by_lanes(int rows, int steps, int tiles, int n) {
    const int lanes = cnn__k()->lanes, filled = cnn__ceil_div(tiles, lanes) * lanes;
    return n == 1 && lanes == CNN__LANES && rows % CNN__LANES == 0 &&
           (tiles <= lanes ||
            (10 * (int64_t)tiles < 9 * (int64_t)filled && (int64_t)36 * steps * filled <= CNN__WINO_INPUT));
}

/* The more tiles in a run, the fewer times weights are transformed, unless those of all channels are kept. */
static void cnn__wino_cut(cnn__wino *w, int n, int groups, int threads) {
    const int lanes = cnn__k()->lanes;
    w->by_lanes = cnn__wino_by_lanes(w->rows, w->steps, w->tiles, n);
    w->kept = (int64_t)36 * w->steps * w->rows <= CNN__WINO_WEIGHTS;
    const int most = w->kept ? cnn__clamp(w->tiles, 32, 96) : CNN__WINO_RUN;
    const int room = threads > 1 ? CNN__WINO_INPUTS : CNN__WINO_INPUT;
    const int fit = cnn__clamp(room / (36 * w->steps) / 16 * 16, 16, most);
    const int several = n > 1 && 2 * w->tiles <= fit;
    int runs = several || w->by_lanes ? 1 : cnn__ceil_div(w->tiles, fit); /* of an image, */
    int pieces = several ? cnn__ceil_div(n, fit / w->tiles) : n;          /* or images in so many */
    const int few =
        (int64_t)pieces * groups * runs < threads && (w->by_lanes || (int64_t)n * w->tiles < 32 * threads);
    w->part =
        w->kept && !few ? w->rows : cnn__part(w->rows, threads, w->by_lanes ? CNN__LANES : cnn__k()->panel);
    w->parts = cnn__ceil_div(w->rows, w->part);
    const int together = cnn__ceil_div(threads, w->parts); /* runs that threads are at */
    if (several)
        pieces =
            cnn__even_pieces(cnn__clamp(cnn__ceil_div(together, groups), pieces, n), groups, together, n);
    else if (!w->by_lanes) {
        const int64_t units = (int64_t)n * groups;
        const int wanted = (int)(units < together ? (together + units - 1) / units : 1);
        runs = cnn__even_pieces(cnn__max(runs, wanted), units, together, w->tiles / 16);
    }
    w->images = cnn__ceil_div(n, pieces);
    w->pieces = cnn__ceil_div(n, w->images);
    w->run = cnn__ceil_div(cnn__ceil_div(w->tiles, runs) * w->images, lanes) * lanes;
    w->runs = cnn__ceil_div(w->tiles, w->run);
}

/* x is steps*h*w, padded by top, left; y rows*oh*ow. */
CNN__COLD static void cnn__wino_plan(cnn__wino *w, const cnn__conv *v, int rows, int steps, int h, int width,
                                     int oh, int ow, int top, int left, int n, int threads) {
    memset(w, 0, sizeof *w);
    w->rows = rows;
    w->steps = steps;
    w->oh = oh;
    w->ow = ow;
    w->across = cnn__ceil_div(ow, 4);
    w->tiles = w->across * cnn__ceil_div(oh, 4);
    cnn__wino_cut(w, n, v->groups, threads);
    const int unit = w->by_lanes ? CNN__LANES : cnn__k()->panel, least = w->by_lanes ? 4 * CNN__LANES : 24;
    /* One vector of tiles takes little longer than its weights' transform, which then writes to memory
       that stays in the second-level cache. */
    const int floats = w->kept || w->run > CNN__LANES ? CNN__WINO_WEIGHTS : CNN__WINO_CACHED;
    const int fits = floats / (36 * steps) / unit * unit;
    w->group = cnn__min(w->part, cnn__max(fits, least));
    w->depth = cnn__ceil_div(steps, (int)(((int64_t)36 * w->group * steps - 1) / floats) + 1);
    w->depth = cnn__min(cnn__ceil_div(w->depth, CNN__LANES) * CNN__LANES, steps);
    w->v_pitch = (size_t)steps * (size_t)w->run + 16;
    w->u_pitch = cnn__padded((size_t)w->group * (size_t)w->depth) + 16;
    w->m_pitch = (size_t)w->group * (size_t)(w->by_lanes ? w->run + CNN__BEYOND : w->run) + 16;
    cnn__conv *p = &w->v;
    p->c = p->cell = p->sh = p->sw = 1;
    p->h = h;
    p->w = width;
    p->pt = top;
    p->pl = left;
    p->mode = v->mode;
    p->hp = p->hq = cnn__ceil_div(oh, 4) * 4 + 2;
    p->wp = w->across * 4 + 2;
    p->wq = p->x_pitch = p->wp + 2;             /* a tile's last two pixels are read as four */
    const int own = cnn__min(w->run, w->tiles); /* tiles of an image, in up to so many rows of them: */
    p->rows = 4 * cnn__min((own + w->across - 2) / w->across + 1, w->tiles / w->across) + 2;
    p->plane = p->rows * p->wq;
}

static size_t cnn__wino_floats(const cnn__wino *w) {
    const size_t out = w->by_lanes ? (size_t)w->oh * (size_t)w->ow * CNN__LANES : 0;
    return 36 * (w->u_pitch + w->m_pitch + w->v_pitch) + (size_t)w->v.plane * (size_t)w->images + out;
}

/* U of output channels m0 to m1 - 1 and steps k0 to k1 - 1, as panels. */
static void cnn__wino_weights(const cnn__wino *w, const cnn__kernels *k, const float *weight, int m0, int m1,
                              int k0, int k1, float *u) {
    ptrdiff_t at[8 * CNN__LANES]; /* of a panel's kernels, so many steps that they fill whole vectors */
    const int steps = w->by_lanes ? 1 : k->lanes;
    int known = 0;
    for (int m = m0, mr = 0; m < m1; m += mr, u += mr * (k1 - k0)) {
        mr = w->by_lanes ? CNN__LANES : cnn__panel_rows(k->panel, m1 - m);
        for (int i = 0; mr != known && i < steps; i++)
            for (int r = 0; r < mr; r++)
                at[i * mr + r] = (ptrdiff_t)((size_t)r * w->rs + (size_t)i * w->ks);
        known = mr;
        k->wino_weight(weight + (size_t)m * w->rs + (size_t)k0 * w->ks, at, mr * steps,
                       (ptrdiff_t)w->ks * steps, mr * (k1 - k0), w->flip, u, w->u_pitch);
    }
}

/* Tiles that lie side by side in a row of them, and in a quarter of a vector. */
typedef struct cnn__wino_piece {
    int tile;          /* the first, counted from the run's first */
    int whole;         /* it is a quarter of a vector, and all of it lies on the image */
    int columns, rows; /* outputs */
    ptrdiff_t at;      /* the first of them from that of the channel */
    ptrdiff_t from;    /* a share of the channel, of `fetch` floats, to be fetched before it is written */
    int fetch;
} cnn__wino_piece;

/* A run: tiles t0 to t1 - 1, in reading order, of some images, of one group. Of a vector's tiles quad q has
   the q-th of each quarter: what quads four wide hold of a quarter then lies side by side, where the quarter
   does. So whole quarters come first, row by row, and then what is left of the rows. With outputs as lanes,
   pieces are tiles, in the order of lanes, and those of a vector that is not full take its first lanes. */
typedef struct cnn__wino_range {
    int group, image0, images, t0, t1;
    int first, n, pieces, whole; /* the first row of tiles; tiles and pieces; vectors of whole quarters */
    /* Where each lane's tile lies in the padded images; beyond the last, any. */
    ptrdiff_t lane[CNN__WINO_RUN];
    cnn__wino_piece piece[CNN__WINO_RUN];
} cnn__wino_range;

/* n more tiles, the `t`-th of the run and those after it, from (i, j) of an image on. */
static void cnn__wino_place(const cnn__wino_call *a, cnn__wino_range *run, int t, int image, int i, int j,
                            int n) {
    const cnn__wino *w = a->w;
    const int lanes = a->k->lanes, quads = lanes / 4, end = t + n;
    for (; t < end; t += n, j += n) {
        const int plain = w->by_lanes && t / lanes * lanes + lanes > run->n;
        const int lane = plain ? t : t / lanes * lanes + t % quads * 4 + t % lanes / quads;
        n = w->by_lanes ? 1 : cnn__min(quads - t % quads, end - t);
        for (int q = 0; q < n; q++)
            run->lane[lane + 4 * q] =
                (ptrdiff_t)image * w->v.plane + (ptrdiff_t)(i - run->first) * 4 * w->v.wq + (j + q) * 4;
        cnn__wino_piece *p = &run->piece[w->by_lanes ? lane : run->pieces];
        const ptrdiff_t start = (ptrdiff_t)((size_t)(image * a->groups) * a->y_unit);
        const int before = 16 * (i * w->across + j);
        run->pieces++;
        p->tile = t;
        p->columns = cnn__min(4 * n, w->ow - 4 * j);
        p->rows = cnn__min(4, w->oh - 4 * i);
        p->whole = n == quads && p->columns == 4 * n && p->rows == 4;
        p->at = start + (ptrdiff_t)(4 * i) * w->ow + 4 * j;
        p->from = start + before;
        p->fetch = cnn__clamp(w->oh * w->ow - before, 0, 16 * n);
    }
}

static void cnn__wino_range_of(const cnn__wino_call *a, int unit, cnn__wino_range *run) {
    const cnn__wino *w = a->w;
    const int quads = a->k->lanes / 4, piece = unit / w->runs;
    memset(run->lane, 0, (size_t)w->run * sizeof *run->lane);
    run->pieces = 0;
    run->group = piece / w->pieces;
    run->image0 = piece % w->pieces * w->images;
    run->images = cnn__min(w->images, a->n - run->image0);
    run->t0 = unit % w->runs * w->run;
    run->t1 = cnn__min(run->t0 + w->run, w->tiles);
    run->first = run->t0 / w->across;
    run->n = (run->images - 1) * w->tiles + run->t1 - run->t0;
    int placed = 0;
    for (int rest = 0; rest < 2; rest++) {
        for (int t = 0, n = 0; t < run->n; t += n) {
            const int tile = (run->t0 + t) % w->tiles, j = tile % w->across;
            n = cnn__min(w->across - j, run->n - t);
            const int skip = rest ? n / quads * quads : 0, some = rest ? n - skip : n / quads * quads;
            cnn__wino_place(a, run, placed, (run->t0 + t) / w->tiles, tile / w->across, j + skip, some);
            placed += some;
        }
        if (!rest)
            run->whole = (placed < run->n || w->by_lanes ? placed : placed + a->k->lanes - 1) / a->k->lanes;
    }
}

static const float *cnn__wino_plane(const cnn__wino_call *a, const cnn__wino_range *run, int c, int n) {
    const size_t unit = (size_t)((run->image0 + n) * a->groups + run->group);
    return a->x + unit * a->x_unit + (size_t)c * (size_t)a->w->v.h * (size_t)a->w->v.w;
}

/* Part q of n of what channel c's tiles are made of. All at once holds up what else is read. */
static void cnn__wino_fetch(const cnn__wino_call *a, const cnn__wino_range *run, int c, int q, int n) {
    const cnn__conv *v = &a->w->v;
    const int top = 4 * run->first - v->pt, first = cnn__max(top, 0);
    const int64_t plane = (int64_t)(cnn__min(top + v->rows, v->h) - first) * v->w, all = plane * run->images;
    const int64_t end = all * (q + 1) / n;
    for (int64_t i = all * q / n, next = 0; i < end; i = next) {
        next = (i / plane + 1) * plane;
        if (next > end)
            next = end;
        cnn__fetch(cnn__wino_plane(a, run, c, (int)(i / plane)) + (ptrdiff_t)first * v->w + i % plane,
                   (size_t)(next - i));
    }
}

/* V of a run, by way of a channel of its images. */
static void cnn__wino_inputs(const cnn__wino_call *a, const cnn__wino_range *run, float *v, float *images) {
    const cnn__wino *w = a->w;
    const int lanes = a->k->lanes, vectors = cnn__ceil_div(run->n, lanes);
    const size_t plane = (size_t)w->v.plane;
    /* The padding stays from channel to channel. */
    memset(images, 0, plane * (size_t)run->images * sizeof(float));
    for (int c = 0; c < w->steps; c++, v += w->run) {
        for (int i = 0; i < run->images; i++)
            cnn__repack(&w->v, cnn__wino_plane(a, run, c, i), 0, 1, 4 * run->first,
                        images + (size_t)i * plane);
        for (int t = 0; t < vectors; t++) {
            if (c + 1 < w->steps)
                cnn__wino_fetch(a, run, c + 1, t, vectors);
            a->k->wino_tiles(images, (size_t)w->v.wq, run->lane + t * lanes, t < run->whole, v + t * lanes,
                             w->v_pitch);
        }
    }
}

/* An output channel of a run: back from M, which is read to the end of the last vector, to y. The next is to
   be written `next` floats further on. */
static void cnn__wino_outputs(const cnn__wino_call *a, const cnn__wino_range *run, const float *m, float bias,
                              float *y, size_t next) {
    const int lanes = a->k->lanes, quads = lanes / 4;
    const size_t pitch = (size_t)a->w->ow;
    const cnn__wino_piece *const end = run->piece + run->pieces;
    float tiles[4 * 4 * CNN__LANES];
    for (const cnn__wino_piece *p = run->piece, *first = p; p < end; first = p) {
        const int t = p->tile;
        float *to[4];
        size_t row[4];
        for (int i = 0; i < 4; i++) {
            to[i] = tiles + i * lanes;
            row[i] = 4 * (size_t)lanes;
        }
        for (; p < end && p->tile < t + lanes; p++) {
            cnn__fetch(y + next + p->from, (size_t)p->fetch);
            if (p->whole) {
                to[(p->tile - t) / quads] = y + p->at;
                row[(p->tile - t) / quads] = pitch;
            }
        }
        a->k->wino_output(m + t, a->w->m_pitch, bias, to, row);
        for (; first < p; first++)
            if (!first->whole)
                a->k->copy(tiles + 4 * (first->tile - t), 4 * (size_t)lanes, y + first->at, pitch,
                           (size_t)first->columns, first->rows);
    }
}

/* The same of CNN__LANES output channels, the lanes of M, by way of `pixels`. */
static void cnn__wino_outputs_by_lanes(const cnn__wino_call *a, const cnn__wino_range *run, const float *m,
                                       const float *bias, float *pixels, float *y) {
    const cnn__wino *w = a->w;
    const size_t pitch = (size_t)w->ow, out = (size_t)w->oh * pitch;
    float add[CNN__LANES] = {0};
    for (int i = 0; bias && i < CNN__LANES; i++)
        add[i] = bias[i];
    for (int t = 0; t < run->n; t++) {
        const cnn__wino_piece *p = &run->piece[t];
        a->k->wino_cells(m + (size_t)t * CNN__LANES, w->m_pitch, add, p->rows, p->columns,
                         pixels + p->at * CNN__LANES, pitch * CNN__LANES);
    }
    cnn__rows_from_block(pixels, out, CNN__LANES, CNN__LANES, y, out);
}

/* The products of all 36 elements: p is the first's, the others lie these pitches apart. */
static void cnn__wino_products(const cnn__kernels *k, const cnn__product *p, size_t x_pitch, size_t w_pitch,
                               size_t y_pitch) {
    cnn__product element = *p;
    for (size_t e = 0; e < 36; e++) {
        element.x = p->x + e * x_pitch;
        element.w = p->w + e * w_pitch;
        element.y = p->y + e * y_pitch;
        cnn__product_run(k, &element);
    }
}

/* The same with outputs as lanes: M[element][CNN__LANES outputs][tile], CNN__BEYOND tiles more. */
static void cnn__wino_products_by_lanes(const cnn__wino_call *a, const cnn__product *p, int tiles) {
    const cnn__wino *w = a->w;
    const float zeros[4 * CNN__LANES] = {0};
    cnn__pixels lanes;
    memset(&lanes, 0, sizeof lanes);
    lanes.lines = 1;
    lanes.n = tiles;
    lanes.steps = p->steps;
    lanes.tap = p->tap;
    lanes.bias = p->start == CNN__ZERO ? zeros : NULL;
    lanes.wp = (ptrdiff_t)CNN__LANES * p->steps;
    lanes.yp = (ptrdiff_t)CNN__LANES * (w->run + CNN__BEYOND);
    for (size_t e = 0; e < 36; e++) {
        lanes.x = p->x + e * w->v_pitch;
        lanes.w = p->w + e * w->u_pitch;
        lanes.y = p->y + e * w->m_pitch;
        for (int m = 0; m < p->rows; m += lanes.panels * CNN__LANES) {
            lanes.panels = cnn__lanes_panels(p->rows - m);
            a->k->pixels(&lanes);
            lanes.w += lanes.panels * lanes.wp;
            lanes.y += lanes.panels * lanes.yp;
        }
    }
}

/* What a thread's scratch begins with: which weights and which run are in it. */
typedef struct cnn__wino_cache {
    int64_t weights;
    int unit;
} cnn__wino_cache;

static cnn__wino_cache *cnn__wino_scratch(const cnn__wino_call *a, int thread) {
    return (cnn__wino_cache *)(void *)(a->scratch + (size_t)thread * a->stride);
}

/* M of a run's tiles and output channels m0 to m1 - 1. U, M and V lie one after the other. */
static void cnn__wino_multiply(const cnn__wino_call *a, const cnn__wino_range *run, int m0, int m1,
                               cnn__wino_cache *have, float *u) {
    const cnn__wino *w = a->w;
    const float *v = u + 36 * (w->u_pitch + w->m_pitch);
    cnn__product p;
    memset(&p, 0, sizeof p);
    p.rows = m1 - m0;
    p.n = (size_t)(cnn__ceil_div(run->n, a->k->lanes) * a->k->lanes);
    p.tap = a->tap;
    p.ym = w->run;
    p.slack = 1;
    p.w = u;
    p.y = u + 36 * w->u_pitch;
    for (int k0 = 0, k1 = 0; k0 < w->steps; k0 = k1) {
        k1 = cnn__min(k0 + w->depth, w->steps);
        const int64_t key = ((int64_t)run->group * w->rows + m0) * w->steps + k0 + 1;
        if (have->weights != key)
            cnn__wino_weights(w, a->k, a->weight + (size_t)run->group * a->weight_group, m0, m1, k0, k1, u);
        have->weights = key;
        p.start = k0 ? CNN__ACCUMULATE : CNN__ZERO;
        p.steps = k1 - k0;
        p.panel = k1 - k0;
        p.x = v + (size_t)k0 * (size_t)w->run;
        if (w->by_lanes)
            cnn__wino_products_by_lanes(a, &p, run->n);
        else
            cnn__wino_products(a->k, &p, w->v_pitch, w->u_pitch, w->m_pitch);
    }
}

/* A part of a run's output channels. */
static void cnn__wino_task(void *context, int task, int thread) {
    const cnn__wino_call *a = (const cnn__wino_call *)context;
    const cnn__wino *w = a->w;
    const int unit = task / w->parts, first = task % w->parts * w->part;
    const int end = cnn__min(first + w->part, w->rows);
    cnn__wino_cache *have = cnn__wino_scratch(a, thread);
    float *u = (float *)(void *)((char *)have + CNN__ALIGN);
    float *m = u + 36 * w->u_pitch, *v = m + 36 * w->m_pitch, *images = v + 36 * w->v_pitch;
    float *pixels = images + (size_t)w->v.plane * (size_t)w->images;
    cnn__wino_range run;
    cnn__wino_range_of(a, unit, &run);
    if (have->unit != unit + 1)
        cnn__wino_inputs(a, &run, v, images);
    have->unit = unit + 1;
    const size_t at = (size_t)run.group * (size_t)w->rows, out = (size_t)w->oh * (size_t)w->ow;
    float *y = a->y + (size_t)(run.image0 * a->groups + run.group) * a->y_unit;
    for (int m0 = first; m0 < end; m0 += w->group) {
        const int m1 = cnn__min(m0 + w->group, end);
        cnn__wino_multiply(a, &run, m0, m1, have, u);
        for (int r = m0; w->by_lanes && r < m1; r += CNN__LANES)
            cnn__wino_outputs_by_lanes(a, &run, m + (size_t)(r - m0) * (size_t)(w->run + CNN__BEYOND),
                                       a->bias ? a->bias + at + (size_t)r : NULL, pixels,
                                       y + (size_t)r * out);
        for (int r = m0; !w->by_lanes && r < m1; r++)
            cnn__wino_outputs(a, &run, m + (size_t)(r - m0) * (size_t)w->run,
                              a->bias ? a->bias[at + (size_t)r] : 0.0f, y + (size_t)r * out,
                              r + 1 < m1 ? out : 0);
    }
}

/* y, of all images and groups, or dx where x is dy. */
static cnn_status cnn__wino_run(const char *where, const cnn__conv_call *c, int backward) {
    const cnn__conv *v = c->v;
    cnn__wino w;
    cnn__wino_call a;
    const int threads = cnn__conv_threads(v, c->n);
    memset(&a, 0, sizeof a);
    if (backward) {
        cnn__wino_plan(&w, v, v->c, v->o, v->oh, v->ow, v->h, v->w, 2 - v->pt, 2 - v->pl, c->n, threads);
        w.flip = 1;
        w.rs = 9;
        w.ks = (size_t)v->steps;
    } else {
        cnn__wino_plan(&w, v, v->o, v->c, v->h, v->w, v->oh, v->ow, v->pt, v->pl, c->n, threads);
        w.rs = (size_t)v->steps;
        w.ks = 9;
    }
    if ((int64_t)v->groups * w.pieces * w.runs * w.parts > INT_MAX)
        return cnn__conv_too_many(where, c);
    a.w = &w;
    a.k = c->k;
    a.x = backward ? c->dy : c->x;
    a.weight = c->weight;
    a.bias = backward ? NULL : c->bias;
    a.y = backward ? c->dx : c->y;
    a.n = c->n;
    a.groups = v->groups;
    a.x_unit = (size_t)w.steps * (size_t)w.v.h * (size_t)w.v.w;
    a.y_unit = (size_t)w.rows * (size_t)w.oh * (size_t)w.ow;
    a.weight_group = (size_t)v->o * (size_t)v->steps;
    a.stride = CNN__ALIGN + cnn__padded(cnn__wino_floats(&w)) * sizeof(float);
    cnn__arena arena = {c->memory->base, 0};
    int *tap = NULL;
    tap = (int *)cnn__take(&arena, (size_t)w.steps, sizeof(int));
    a.scratch = (char *)cnn__take(&arena, cnn__mul(a.stride, (size_t)threads), 1);
    if (!cnn__conv_memory(c, &arena))
        return CNN_OK;
    for (int k = 0; k < w.steps; k++)
        tap[k] = k * w.run;
    a.tap = tap;
    for (int t = 0; t < threads; t++)
        memset(cnn__wino_scratch(&a, t), 0, sizeof(cnn__wino_cache));
    cnn__parallel(threads, v->groups * w.pieces * w.runs * w.parts, cnn__wino_task, &a);
    return CNN_OK;
}

/* dw: the same with the channels innermost. A run of rows of tiles at a time, of one image or several: the
   images transformed to V[element][tile][c], dy of some output channels to D[element][tile][o], and the 36
   products M[element][o][c] = D[element]^T V[element] transformed to gradients. M of some outputs stays in the
   second-level cache; where that is all of them it is summed over the runs, and transformed after the last.
   Threads that share the outputs each need all of V; so where there are many tiles and not too many weights, a
   fixed number of slots of rows of tiles, as of cnn__dw_slots, have gradients of their own. Lines lie an odd
   number of cache lines apart. */
typedef struct cnn__wino_dw {
    const cnn__conv_call *call;
    cnn__conv x, dy;  /* as images to transpose: rows of pixels up to the end of the last tile */
    int across, down; /* tiles in a row, rows of tiles of an image, */
    int lines, run;   /* of all images, and of a run */
    int part, parts;  /* outputs of a task, */
    int some, kept;   /* and at a time; whether M is kept from run to run */
    int *tap;
    size_t c_pitch, o_pitch, v_pitch, d_pitch, m_pitch;
    char *scratch;
    size_t stride;
} cnn__wino_dw;

static size_t cnn__odd_lines(int floats) {
    return cnn__round_up((size_t)floats, CNN__LANES) | CNN__LANES;
}

/* By the shape alone: the sums must not depend on the threads. */
static int cnn__wino_dw_slots(const cnn__conv *v, int lines, int across) {
    const int64_t tiles = (int64_t)lines * across / CNN__WINO_SLOT;
    const int64_t fit = CNN__WINO_SUMS / (int64_t)cnn__dw_slot(v);
    return cnn__slots(tiles < fit ? tiles : fit, cnn__min(lines, 8));
}

CNN__COLD static void cnn__wino_dw_plan(cnn__wino_dw *w, cnn__conv_call *call, int threads) {
    const cnn__conv *v = call->v;
    memset(w, 0, sizeof *w);
    w->call = call;
    w->across = cnn__ceil_div(v->ow, 4);
    w->down = cnn__ceil_div(v->oh, 4);
    w->lines = call->n * w->down;
    call->slots = cnn__wino_dw_slots(v, w->lines, w->across);
    const int lines = cnn__ceil_div(w->lines, call->slots);
    const int most = cnn__clamp((int)((int64_t)v->c * v->o / 256), 32, CNN__GATHER_STEPS) / w->across;
    const int runs = cnn__ceil_div(lines, cnn__clamp(most, 1, lines));
    w->run = cnn__ceil_div(lines, runs);
    const int fits = cnn__max(CNN__WINO_CACHED / (36 * v->c) / 8 * 8, 16);
    w->part = cnn__dw_part(v, call->slots, threads);
    w->parts = cnn__ceil_div(v->o, w->part);
    w->some = cnn__min(w->part, fits);
    w->kept = v->o <= fits; /* whatever the number of threads: the order of the sums follows from it */
    w->x.c = v->c;
    w->x.h = v->h;
    w->x.w = v->w;
    w->x.pt = v->pt;
    w->x.pl = v->pl;
    w->x.hp = 4 * w->down + 2;
    w->x.wp = 4 * w->across + 2;
    w->dy.c = w->some;
    w->dy.h = v->oh;
    w->dy.w = v->ow;
    w->dy.hp = 4 * w->down;
    w->dy.wp = 4 * w->across;
    w->c_pitch = cnn__odd_lines(v->c);
    w->o_pitch = cnn__odd_lines(w->some);
    const size_t tiles = (size_t)w->run * (size_t)w->across;
    w->v_pitch = tiles * w->c_pitch + CNN__LANES;
    w->d_pitch = tiles * w->o_pitch + CNN__LANES;
    w->m_pitch = (size_t)w->some * w->c_pitch + CNN__LANES;
}

static size_t cnn__wino_dw_floats(const cnn__wino_dw *w) {
    return 36 * (w->v_pitch + w->d_pitch + w->m_pitch) +
           (size_t)w->x.wp * (size_t)(6 * w->x.c + 4 * w->some) + 2 * CNN__LANES;
}

/* The rows of tiles `first` to end - 1: x transformed, or dy (size 6 or 4: pixels of a tile's side). Vectors
   may read and write on beyond the channels. */
static void cnn__wino_dw_transform(const cnn__wino_dw *w, const cnn__conv *v, const float *x, size_t unit,
                                   int size, int first, int end, float *pixels, float *to, size_t c_pitch,
                                   size_t pitch) {
    const cnn__kernels *k = w->call->k;
    const int down = w->down, keep = size - 4;
    const size_t c = (size_t)v->c, line = (size_t)v->wp * c;
    ptrdiff_t row[6], column[6];
    for (int i = 0; i < 6; i++) {
        row[i] = (ptrdiff_t)line * i;
        column[i] = (ptrdiff_t)c * i;
    }
    for (int i = first; i < end; i++) {
        const int at = i % down, have = at && i > first ? keep : 0; /* rows that the tiles above had too */
        memmove(pixels, pixels + 4 * line, (size_t)have * line * sizeof(float));
        cnn__to_pixels(v, x + (size_t)(i / down) * unit, 4 * at + have, size - have,
                       pixels + (size_t)have * line);
        for (int j = 0; j < w->across; j++, to += c_pitch)
            for (size_t m = 0; m < c; m += (size_t)k->lanes)
                (size == 6 ? k->wino_input : k->wino_gradient)(pixels + (size_t)(4 * j) * c + m, row, column,
                                                               to + m, pitch);
    }
}

/* dw[channels][9] of one output channel += M transformed. `left` of dw are to be added to in all. */
static void cnn__wino_dw_output(const cnn__kernels *k, const float *m, size_t pitch, int channels,
                                size_t left, float *dw) {
    const int lanes = k->lanes;
    float tile[9 * CNN__LANES], row[9 * CNN__LANES];
    for (int c = 0; c < channels; c += lanes) {
        const size_t ahead = (size_t)(c + 4 * lanes);
        if (ahead < left)
            cnn__fetch(dw + ahead * 9, 9 * (left - ahead < (size_t)lanes ? left - ahead : (size_t)lanes));
        k->wino_kernel(m + c, pitch, tile);
        for (int s = 0; s < lanes; s += 4) {
            cnn__transpose4(tile + s, (size_t)lanes, row + 9 * s, 9);
            cnn__transpose4(tile + 4 * lanes + s, (size_t)lanes, row + 9 * s + 4, 9);
        }
        for (int s = 0; s < lanes; s++)
            row[9 * s + 8] = tile[8 * lanes + s];
        k->add(dw + (size_t)c * 9, row, (size_t)(9 * cnn__min(lanes, channels - c)));
    }
}

/* One run, rows of tiles l0 to l1 - 1, for outputs m0 to m1 - 1 of a group. V is there. */
static void cnn__wino_dw_outputs(const cnn__wino_dw *w, int group, int m0, int m1, int l0, int l1, int begun,
                                 int ends, float *scratch, float *dw) {
    const cnn__conv_call *a = w->call;
    const cnn__conv *v = a->v;
    const size_t out = (size_t)v->oh * (size_t)v->ow, first = (size_t)(group * v->o);
    float *in = scratch, *d = in + 36 * w->v_pitch, *sums = d + 36 * w->d_pitch;
    cnn__conv dy = w->dy;
    cnn__product p;
    memset(&p, 0, sizeof p);
    p.n = (size_t)v->c;
    p.steps = (l1 - l0) * w->across;
    p.tap = w->tap;
    p.panel = 1;
    p.wk = (ptrdiff_t)w->o_pitch;
    p.ym = (ptrdiff_t)w->c_pitch;
    p.gather = 1;
    p.slack = 1;
    p.start = begun ? CNN__ACCUMULATE : CNN__ZERO;
    p.x = in;
    p.w = d;
    p.y = sums;
    for (int m = m0; m < m1; m += w->some) {
        dy.c = p.rows = cnn__min(w->some, m1 - m);
        cnn__wino_dw_transform(w, &dy, a->dy + (first + (size_t)m) * out, (size_t)(v->groups * v->o) * out, 4,
                               l0, l1, sums + 36 * w->m_pitch, d, w->o_pitch, w->d_pitch);
        cnn__wino_products(a->k, &p, w->v_pitch, w->d_pitch, w->m_pitch);
        for (int r = 0; ends && r < p.rows; r++)
            cnn__wino_dw_output(a->k, sums + (size_t)r * w->c_pitch, w->m_pitch, v->c,
                                (size_t)(p.rows - r) * (size_t)v->c,
                                dw + (first + (size_t)(m + r)) * (size_t)v->steps);
    }
}

static void cnn__wino_dw_task(void *context, int task, int thread) {
    const cnn__wino_dw *w = (const cnn__wino_dw *)context;
    const cnn__conv_call *a = w->call;
    const cnn__conv *v = a->v;
    const int slot = task / w->parts / v->groups, group = task / w->parts % v->groups;
    const int m0 = task % w->parts * w->part, m1 = cnn__min(m0 + w->part, v->o);
    const int l0 = (int)((int64_t)w->lines * slot / a->slots);
    const int l1 = (int)((int64_t)w->lines * (slot + 1) / a->slots);
    const size_t out = (size_t)v->oh * (size_t)v->ow, image = (size_t)v->c * (size_t)v->h * (size_t)v->w;
    const size_t outputs = (size_t)(v->groups * v->o), first = (size_t)(group * v->o + m0);
    const size_t count = (size_t)(m1 - m0), steps = (size_t)v->steps;
    float *scratch = (float *)(void *)(w->scratch + (size_t)thread * w->stride);
    float *pixels = scratch + 36 * (w->v_pitch + w->d_pitch + w->m_pitch), *dw = a->dw, *db = a->db;
    if (a->slots > 1) {
        dw = a->sums + (size_t)slot * cnn__dw_slot(v);
        db = dw + cnn__dw_slot(v) - outputs;
        memset(dw + first * steps, 0, count * steps * sizeof(float));
        memset(db + first, 0, count * sizeof(float));
    }
    for (int i = cnn__ceil_div(l0, w->down); a->db && i * w->down < l1; i++) /* images that begin here */
        for (size_t m = first; m < first + count; m++)
            db[m] += a->k->sum(a->dy + ((size_t)i * outputs + m) * out, out);
    for (int i = l0; i < l1; i += w->run) {
        const int end = cnn__min(i + w->run, l1);
        cnn__wino_dw_transform(w, &w->x, a->x + (size_t)group * image, (size_t)v->groups * image, 6, i, end,
                               pixels, scratch, w->c_pitch, w->v_pitch);
        cnn__wino_dw_outputs(w, group, m0, m1, i, end, w->kept && i > l0, !w->kept || end == l1, scratch, dw);
    }
}

static cnn_status cnn__wino_dw_run(const char *where, cnn__conv_call *c) {
    const int threads = cnn__conv_threads(c->v, c->n);
    cnn__arena arena = {c->memory->base, 0};
    cnn__wino_dw w;
    if ((int64_t)c->n * c->v->oh > INT_MAX)
        return cnn__conv_too_many(where, c);
    cnn__wino_dw_plan(&w, c, threads);
    w.stride = cnn__padded(cnn__wino_dw_floats(&w)) * sizeof(float);
    w.tap = (int *)cnn__take(&arena, (size_t)(w.run * w.across), sizeof(int));
    c->sums = cnn__take_floats(&arena, c->slots > 1 ? cnn__mul((size_t)c->slots, cnn__dw_slot(c->v)) : 0);
    w.scratch = (char *)cnn__take(&arena, cnn__mul(w.stride, (size_t)threads), 1);
    if (!cnn__conv_memory(c, &arena))
        return CNN_OK;
    for (int k = 0; k < w.run * w.across; k++)
        w.tap[k] = k * (int)w.c_pitch;
    cnn__parallel(threads, c->slots * c->v->groups * w.parts, cnn__wino_dw_task, &w);
    cnn__dw_slots_add(c, threads);
    return CNN_OK;
}

/* Winograd of a block of a network: the examples of a cell are the lanes, so that nothing is interleaved, and
   only tiles that reach over the edge are copied. Forward, or dx from dy. */
typedef struct cnn__cells {
    const cnn__kernels *k;
    int cell;                              /* floats of a pixel of the input */
    int steps, rows, h, w, oh, ow, pt, pl; /* input and output channels, their sizes, the padding */
    int run;                               /* tiles at a time, side by side */
    const int *tap;                        /* step k of V: k*run cells */
    const float *u, *bias;                 /* transformed weights; bias may be NULL */
    size_t u_pitch;                        /* from one of their 36 elements to the next */
    float *scratch;                        /* a tile, V, M */
} cnn__cells;

/* As many tiles as leave V and M in the second-level cache. */
static int cnn__cells_run(const cnn__conv *v) {
    return cnn__clamp(2 * CNN__CACHE_FLOATS / (36 * CNN__LANES * (v->c + v->o)), 1, 4);
}

static size_t cnn__cells_u_pitch(const cnn__conv *v) {
    return (size_t)v->c * (size_t)v->o + 16;
}

/* Of scratch memory. */
static size_t cnn__cells_floats(const cnn__conv *v) {
    return 36 * CNN__LANES * (1 + (size_t)(v->c + v->o) * (size_t)cnn__cells_run(v) + 2);
}

/* V of n tiles from (i, j) on, of 6x6 inputs or of 4x4 output gradients (side). */
static void cnn__cells_inputs(const cnn__cells *a, int side, const float *x, int i, int j, int n, float *edge,
                              float *v, size_t v_pitch) {
    const ptrdiff_t cell = a->cell, line = a->w * cell;
    const int top = 4 * i - a->pt, a0 = cnn__max(0, -top), a1 = cnn__min(side, a->h - top);
    ptrdiff_t row[6], edge_row[6], column[6];
    for (int b = 0; b < 6; b++) {
        row[b] = b * line;
        edge_row[b] = b * 6 * cell;
        column[b] = b * cell;
    }
    for (int t = 0; t < n; t++) {
        const int left = 4 * (j + t) - a->pl, b0 = cnn__max(0, -left), b1 = cnn__min(side, a->w - left);
        const int whole = a0 == 0 && a1 == side && b0 == 0 && b1 == side;
        if (!whole)
            memset(edge, 0, 36 * (size_t)cell * sizeof(float));
        for (int c = 0; c < a->steps; c++) {
            const ptrdiff_t at = ((ptrdiff_t)c * a->h + top) * line + left * cell;
            float *to = v + ((ptrdiff_t)c * a->run + t) * cell;
            for (int r = a0; !whole && r < a1; r++)
                a->k->copy(x + (at + r * line + b0 * cell), 0, edge + (6 * r + b0) * cell, 0,
                           (size_t)((b1 - b0) * cell), 1);
            for (ptrdiff_t lane = 0; lane < cell; lane += a->k->lanes)
                (side == 6 ? a->k->wino_input : a->k->wino_gradient)(
                    (whole ? x + at : edge) + lane, whole ? row : edge_row, column, to + lane, v_pitch);
        }
    }
}

/* y's tiles from (i, j) on, of n. */
static void cnn__cells_outputs(const cnn__cells *a, const float *m, size_t m_pitch, int i, int j, int n,
                               float *y) {
    const size_t line = (size_t)a->ow * CNN__LANES;
    const int rows = cnn__min(4, a->oh - 4 * i);
    for (int r = 0; r < a->rows; r++) {
        const float *from = m + (size_t)r * (size_t)a->run * CNN__LANES;
        float bias[CNN__LANES];
        for (int lane = 0; lane < CNN__LANES; lane++)
            bias[lane] = a->bias ? a->bias[r] : 0.0f;
        float *to = y + ((size_t)r * (size_t)a->oh + 4 * (size_t)i) * line + 4 * (size_t)j * CNN__LANES;
        for (int t = 0; t < n; t++)
            for (int lane = 0; lane < CNN__LANES; lane += a->k->lanes)
                a->k->wino_cells(from + t * CNN__LANES + lane, m_pitch, bias, rows,
                                 cnn__min(4, a->ow - 4 * (j + t)), to + 4 * t * CNN__LANES + lane, line);
    }
}

/* Rows i0..i1-1 of the output, i0 a multiple of 4. */
static void cnn__cells_forward(const cnn__cells *a, const float *x, int i0, int i1, float *y) {
    const size_t n = (size_t)a->run * CNN__LANES;
    const size_t v_pitch = (size_t)a->steps * n + CNN__LANES, m_pitch = (size_t)a->rows * n + CNN__LANES;
    float *edge = a->scratch, *v = edge + 36 * CNN__LANES, *m = v + 36 * v_pitch;
    const int across = cnn__ceil_div(a->ow, 4);
    cnn__product p;
    memset(&p, 0, sizeof p);
    p.rows = a->rows;
    p.steps = a->steps;
    p.tap = a->tap;
    p.panel = a->steps;
    p.ym = (ptrdiff_t)n;
    p.slack = 1;
    p.x = v;
    p.w = a->u;
    p.y = m;
    for (int i = i0 / 4; 4 * i < i1; i++)
        for (int j = 0; j < across; j += a->run) {
            const int tiles = cnn__min(a->run, across - j);
            cnn__cells_inputs(a, 6, x, i, j, tiles, edge, v, v_pitch);
            p.n = (size_t)tiles * CNN__LANES;
            cnn__wino_products(a->k, &p, v_pitch, a->u_pitch, m_pitch);
            cnn__cells_outputs(a, m, m_pitch, i, j, tiles, y);
        }
}

/* Some pixels of a block's images, c planes of examples, with all channels of an example side by side. */
CNN__LOOPS static void cnn__cells_pixels(const float *x, size_t plane, size_t c, size_t pixels, float *to) {
    const size_t whole = c / 4 * 4;
    for (size_t p = 0; p < pixels; p++, x += CNN__LANES, to += CNN__LANES * c) {
        for (size_t i = 0; i < whole; i += 4)
            for (size_t s = 0; s < CNN__LANES; s += 4)
                cnn__transpose4(x + i * plane + s, plane, to + s * c + i, c);
        for (size_t i = whole; i < c; i++)
            for (size_t s = 0; s < CNN__LANES; s++)
                to[s * c + i] = x[i * plane + s];
    }
}

/* dw: rows of tiles one after the other, their x and dy as pixels. Of a run of tiles V[element][example][c] and,
   from dy, D[element][example][o]; the products M[element][o][c] += D^T V; at the end M transformed. */
typedef struct cnn__cells_dw_sizes {
    size_t x, dy, edge, v, d, m; /* floats; those of v, d and m for an element */
} cnn__cells_dw_sizes;

static cnn__cells_dw_sizes cnn__cells_dw_plan(const cnn__conv *v) {
    const size_t c = (size_t)v->c * CNN__LANES, o = (size_t)v->o * CNN__LANES;
    const size_t run = (size_t)cnn__cells_run(v);
    const cnn__cells_dw_sizes size = {6 * c * (size_t)v->w, 4 * o * (size_t)v->ow, 36 * (c > o ? c : o),
                                      run * c + CNN__LANES, run * o + CNN__LANES,  cnn__cells_u_pitch(v)};
    return size;
}

/* Of scratch memory. */
static size_t cnn__cells_dw_floats(const cnn__conv *v) {
    const cnn__cells_dw_sizes size = cnn__cells_dw_plan(v);
    return size.x + size.dy + size.edge + 36 * (size.v + size.d + size.m);
}

/* Images of c channels as pixels. */
static cnn__cells cnn__cells_of_pixels(const cnn__kernels *k, const cnn__conv *v, int c, int w, int left) {
    cnn__cells a;
    memset(&a, 0, sizeof a);
    a.k = k;
    a.cell = c * CNN__LANES;
    a.steps = 1;
    a.w = w;
    a.pl = left;
    a.run = cnn__cells_run(v);
    return a;
}

static void cnn__cells_dw(const cnn__kernels *k, const cnn__conv *v, const float *x, const float *dy,
                          float *scratch, float *dw) {
    const cnn__cells_dw_sizes size = cnn__cells_dw_plan(v);
    const size_t c = (size_t)v->c, o = (size_t)v->o, x_line = (size_t)v->w * CNN__LANES;
    const size_t dy_line = (size_t)v->ow * CNN__LANES, x_plane = (size_t)v->h * x_line;
    float *image = scratch, *gradient = image + size.x, *edge = gradient + size.dy, *in = edge + size.edge;
    float *out = in + 36 * size.v, *m = out + 36 * size.d;
    cnn__cells images = cnn__cells_of_pixels(k, v, v->c, v->w, v->pl);
    cnn__cells gradients = cnn__cells_of_pixels(k, v, v->o, v->ow, 0);
    int tap[4 * CNN__LANES];
    cnn__product p;
    memset(&p, 0, sizeof p);
    p.rows = v->o;
    p.n = c;
    p.tap = tap;
    p.panel = 1;
    p.wk = v->o;
    p.ym = v->c;
    p.gather = 1;
    p.slack = 1;
    p.x = in;
    p.w = out;
    p.y = m;
    for (int i = 0; i < images.run * CNN__LANES; i++)
        tap[i] = i * v->c;
    for (int i = 0, first = 0, end = 0; i < v->oh; i += 4) { /* rows first to end - 1 of x are in `image` */
        const int top = cnn__max(0, i - v->pt), bottom = cnn__min(v->h, i - v->pt + 6), have = end - top;
        memmove(image, image + (size_t)(top - first) * x_line * c, (size_t)have * x_line * c * sizeof(float));
        cnn__cells_pixels(x + (size_t)end * x_line, x_plane, c, (size_t)((bottom - end) * v->w),
                          image + (size_t)have * x_line * c);
        first = top;
        end = bottom;
        images.pt = top - (i - v->pt);
        images.h = end - first;
        gradients.h = cnn__min(4, v->oh - i);
        cnn__cells_pixels(dy + (size_t)i * dy_line, (size_t)v->oh * dy_line, o, (size_t)(gradients.h * v->ow),
                          gradient);
        for (int j = 0; 4 * j < v->ow; j += images.run) {
            const int tiles = cnn__min(images.run, cnn__ceil_div(v->ow, 4) - j);
            cnn__cells_inputs(&images, 6, image, 0, j, tiles, edge, in, size.v);
            cnn__cells_inputs(&gradients, 4, gradient, 0, j, tiles, edge, out, size.d);
            p.steps = tiles * CNN__LANES;
            p.start = i || j ? CNN__ACCUMULATE : CNN__ZERO;
            cnn__wino_products(k, &p, size.v, size.d, size.m);
        }
    }
    for (int r = 0; r < v->o; r++)
        cnn__wino_dw_output(k, m + (size_t)r * c, size.m, v->c, (size_t)(v->o - r) * (size_t)v->c,
                            dw + (size_t)r * (size_t)v->steps);
}

/* U, every `of`-th panel from the first-th on. */
static void cnn__cells_weights(const cnn__kernels *k, const cnn__conv *v, const float *weight, int back,
                               int first, int of, float *u) {
    cnn__wino w;
    memset(&w, 0, sizeof w);
    w.rows = back ? v->c : v->o;
    w.steps = back ? v->o : v->c;
    w.flip = back;
    w.rs = back ? 9 : (size_t)v->steps;
    w.ks = back ? (size_t)v->steps : 9;
    w.u_pitch = cnn__cells_u_pitch(v);
    for (int m = 0, i = 0, mr = 0; m < w.rows; m += mr, i++) {
        mr = cnn__panel_rows(k->panel, w.rows - m);
        if (i % of == first)
            cnn__wino_weights(&w, k, weight, m, m + mr, 0, w.steps, u + (size_t)m * (size_t)w.steps);
    }
}

/* Cuts dx and dw, and says how much scratch memory a thread needs for each. */
static size_t cnn__conv_dx_floats(cnn__conv_call *a, int threads) {
    cnn__conv *v = a->v;
    const int64_t units = (int64_t)a->n * v->groups;
    cnn__conv_strips(v, v->oh);
    const int parts = units < threads ? (int)((threads + units - 1) / units) : 1;
    a->part = cnn__conv_part(v->c, cnn__even_pieces(parts, units, threads, v->c / cnn__k()->panel));
    a->parts = cnn__ceil_div(v->c, a->part);
    const int64_t tasks = units * a->parts;
    a->strips = 1;
    if (v->mode == CNN_PAD_ZEROS && tasks < threads)
        a->strips = cnn__min(v->h, (int)((threads + tasks - 1) / tasks));
    const int lines = a->strips > 1 ? cnn__ceil_div(cnn__ceil_div(v->h, a->strips), v->sh) + 1 : v->rows;
    a->dy_plane = (size_t)cnn__dy_before(v) + ((size_t)lines + (size_t)cnn__dy_above(v) + 1) *
                                                  (size_t)v->wq; /* a row more: the rest of a vector's */
    if (cnn__dy_direct(v))
        a->dy_plane = (size_t)v->oh * (size_t)v->ow;
    a->slices = v->groups < threads ? threads : 1;
    return (cnn__dy_direct(v) ? 0 : cnn__padded((size_t)v->o * a->dy_plane)) +
           (v->direct ? 0 : (size_t)a->part * (size_t)v->plane);
}

static size_t cnn__conv_dw_floats(cnn__conv_call *a, int threads) {
    cnn__conv *v = a->v;
    a->slots = cnn__dw_slots(v, a->n);
    a->part = cnn__dw_part(v, a->slots, threads);
    a->parts = cnn__ceil_div(v->o, a->part);
    if (cnn__dw_dots(v)) {
        cnn__conv_strips(v, v->direct ? v->oh : cnn__packed_rows(v));
        return v->direct ? 0 : (size_t)v->c * (size_t)v->plane;
    }
    const int64_t row = (int64_t)v->sh * v->wp * v->c + (int64_t)a->part * v->ow;
    const int64_t fits = CNN__STRIP_FLOATS / row;
    v->strip = (int)(fits < 1 ? 1 : fits < v->oh ? fits : v->oh);
    const int pixel_rows = (v->strip - 1) * v->sh + (v->kh - 1) * v->dh + 1;
    return cnn__padded((size_t)pixel_rows * (size_t)v->wp * (size_t)v->c) +
           cnn__padded((size_t)a->part * (size_t)v->strip * (size_t)v->ow) +
           (a->dw ? (size_t)a->part * (size_t)v->steps : 0);
}

static cnn_status cnn__conv_run_backward(const char *where, cnn__conv_call *a) {
    cnn__conv *v = a->v, w = *v;
    const int threads = cnn__conv_threads(v, a->n);
    cnn__conv_call b = *a;
    cnn__arena arena = {a->memory->base, 0};
    b.v = &w;
    const size_t dx = cnn__conv_scratch_bytes(a, threads, a->dx ? cnn__conv_dx_floats(a, threads) : 0);
    const size_t dw =
        cnn__conv_scratch_bytes(&b, threads, a->dw || a->db ? cnn__conv_dw_floats(&b, threads) : 0);
    if ((double)a->n * v->groups * cnn__max(a->parts, 1) * cnn__max(a->strips, 1) > (double)INT_MAX)
        return cnn__conv_too_many(where, a);
    if (a->dx && cnn__mul((size_t)v->o, a->dy_plane) > INT_MAX)
        return cnn__fail(CNN_ERR_SHAPE, "%s: dx of %dx%dx%d is too large", where, v->c, v->h, v->w);
    if (a->dx) {
        cnn__conv_dx_taps(a, &arena);
        a->panels = cnn__take_floats(&arena, (size_t)v->groups * (size_t)v->o * (size_t)v->steps);
    }
    if (a->dw && cnn__dw_dots(&w))
        cnn__conv_taps(&w, &arena);
    else if (a->dw)
        cnn__conv_dw_taps(&w, w.strip, &arena, &w.tap);
    a->scratch = b.scratch = (char *)cnn__take(&arena, dx > dw ? dx : dw, 1);
    const size_t sums = b.slots > 1 ? (size_t)b.slots * cnn__dw_slot(v) : 0;
    b.sums = cnn__take_floats(&arena, sums);
    if (!cnn__conv_memory(a, &arena))
        return CNN_OK;
    if (a->dx) {
        cnn__parallel(threads, v->groups * a->parts * a->slices, cnn__conv_dx_panels_task, a);
        cnn__conv_run(a, threads, a->n * v->groups * a->parts * a->strips, cnn__conv_dx_task);
    }
    if (!a->dw && !a->db)
        return CNN_OK;
    memset(b.sums, 0, sums * sizeof(float));
    cnn__conv_run(&b, threads, v->groups * b.parts * b.slots, cnn__conv_dw_task);
    cnn__dw_slots_add(&b, threads);
    return CNN_OK;
}

/* Shapes of x, weight and options; the rest is y's or dy's. */
CNN__COLD static cnn_status cnn__conv_check(const char *where, cnn__conv *v, const cnn_tensor *x,
                                            const cnn_tensor *weight, const cnn_conv2d_options *options) {
    CNN__TRY(cnn__check_pointer(where, "x", x));
    CNN__TRY(cnn__check_pointer(where, "weight", weight));
    CNN__TRY(cnn__check_sizes(where, "x", x->n, x->c, x->h, x->w));
    CNN__TRY(cnn__check_sizes(where, "weight", weight->n, weight->c, weight->h, weight->w));
    CNN__TRY(cnn__conv_setup(where, v, x->c, x->h, x->w, weight->n, weight->h, weight->w, options, 1));
    if (weight->c != v->c)
        return v->groups == 1
                   ? cnn__fail(CNN_ERR_SHAPE, "%s: weight has %d input channels, x has %d", where, weight->c,
                               x->c)
                   : cnn__fail(CNN_ERR_SHAPE, "%s: weight has %d input channels, x has %d in %d groups",
                               where, weight->c, x->c, v->groups);
    return CNN_OK;
}

CNN_API cnn_status cnn_conv2d_shape(const cnn_tensor *x, const cnn_tensor *weight,
                                    const cnn_conv2d_options *options, cnn_tensor *y) {
    cnn__conv v;
    CNN__TRY(cnn__check_pointer("cnn_conv2d_shape", "y", y));
    CNN__TRY(cnn__conv_check("cnn_conv2d_shape", &v, x, weight, options));
    y->n = x->n;
    y->c = weight->n;
    y->h = v.oh;
    y->w = v.ow;
    return CNN_OK;
}

/* The choice among the ways to do a convolution. Winograd for 3x3 kernels with so many channels that
   the transforms are little beside the products, and with at most one row or column of padding: an output
   that sees little but padding would get the rounding errors of its whole tile. So would a gradient that is a
   sum over few tiles, of which many reach over the edge: dw wants images of 12x12, or n smaller ones that have
   240 outputs together, as a block's have. */
enum { CNN__Y, CNN__DX, CNN__DW };

/* Whether n images take less time so, counted in multiply-adds for a pair of channels: 36 a tile, those that
   could be done while a vector of tiles is transformed there and back, and while the weights are. Fitted to
   6x6 to 32x32 of 16 to 512 channels with AVX2 and AVX-512. */
static int cnn__wino_pays(const cnn__conv *v, int what, int n) {
    const int lanes = cnn__k()->lanes, tiles = cnn__ceil_div(v->oh, 4) * cnn__ceil_div(v->ow, 4);
    const double all = (double)n * tiles, vector = 520.0 * lanes * (1.0 / v->c + 1.0 / v->o);
    const int by_lanes =
        what == CNN__DX ? cnn__wino_by_lanes(v->c, v->o, tiles, n) : cnn__wino_by_lanes(v->o, v->c, tiles, n);
    const double vectors = by_lanes ? all / lanes : ceil(all / lanes);
    return 36 * all + vector * vectors + 170 < 9.0 * n * v->oh * v->ow;
}

static int cnn__conv_winograd(const cnn__conv *v, int what, int n) {
    const int bottom = v->hp - v->h - v->pt, right = v->wp - v->w - v->pl;
    if (!cnn__k()->wino_input || v->kh != 3 || v->kw != 3 || v->sh > 1 || v->sw > 1 || v->dh > 1 ||
        v->dw > 1 || v->c < 16 || v->o < 16 || v->oh < 6 || v->ow < 6 ||
        (int64_t)v->oh * v->ow > INT_MAX / 64 || v->no_winograd)
        return 0;
    if (what == CNN__DW && (v->oh < 12 || v->ow < 12) && (int64_t)n * v->oh * v->ow < 240)
        return 0;
    if (what != CNN__DW && v->cell == 1 && !cnn__wino_pays(v, what, n))
        return 0;
    if (what != CNN__Y && v->mode != CNN_PAD_ZEROS)
        return 0;
    if (what == CNN__DX) /* a convolution of dy with padding 2 less this */
        return v->pt == 1 && v->pl == 1 && bottom == 1 && right == 1;
    return v->pt < 2 && v->pl < 2 && bottom < 2 && right < 2;
}

/* That of a network's blocks, which keeps U of all channels, and for dw such sums. */
static int cnn__conv_cells(const cnn__conv *v, int what) {
    const int64_t most = what == CNN__DW ? CNN__KEPT_CHANNELS / 2 : CNN__KEPT_CHANNELS;
    return v->cell > 1 && v->groups == 1 && v->mode == CNN_PAD_ZEROS && (int64_t)v->c + v->o <= most &&
           cnn__conv_winograd(v, what, v->cell);
}

/* Depthwise: see there. dx only where it is a convolution of dy with stride 1, then of any number of planes. */
static int cnn__conv_depthwise(const cnn__conv *v, int what) {
    if (v->c > 1)
        return 0;
    if (what != CNN__DX)
        return v->o <= CNN__MULTIPLIER && (v->groups > 1 || v->o == 1) && cnn__depthwise_rows(v) > 0;
    const cnn__conv r = cnn__conv_reverse(v);
    return cnn__pack_plain(v) && v->sh == 1 && v->sw == 1 && cnn__depthwise_rows(&r) > 0;
}

/* Outputs as lanes, where at least two thirds of them are filled. Not for 1x1, whose steps lie planes apart:
   gathered, they are read once for all outputs. Lean instances, known by their lack of Winograd, have too few
   registers for it. */
static int cnn__conv_by_lanes(const cnn__conv *v, int what) {
    const int outputs = what == CNN__DX ? v->c : v->o;
    if (!cnn__k()->wino_input || v->kh * v->kw == 1 ||
        3 * outputs < 2 * CNN__LANES * cnn__ceil_div(outputs, CNN__LANES))
        return 0;
    return what == CNN__Y || (cnn__pack_plain(v) && v->sh == 1 && v->sw == 1);
}

static cnn_status cnn__conv_forward_jobs(const char *where, cnn__conv_call a) {
    const cnn__conv *v = a.v;
    return cnn__conv_depthwise(v, CNN__Y)       ? cnn__depthwise_run(where, &a, v, 0, cnn__depthwise_task)
           : cnn__conv_winograd(v, CNN__Y, a.n) ? cnn__wino_run(where, &a, 0)
           : cnn__conv_by_lanes(v, CNN__Y)      ? cnn__lanes_run(where, &a, v)
                                                : cnn__conv_run_forward(where, &a);
}

static cnn_status cnn__conv_backward_jobs(const char *where, cnn__conv_call a) {
    const cnn__conv *v = a.v;
    const int depthwise = (a.dw || a.db) && cnn__conv_depthwise(v, CNN__DW);
    const int winograd = a.dw && cnn__conv_winograd(v, CNN__DW, a.n);
    cnn__conv_call b = a;
    if (a.dx && cnn__conv_winograd(v, CNN__DX, a.n)) {
        CNN__TRY(cnn__wino_run(where, &a, 1));
        a.dx = NULL;
    } else if (a.dx && (cnn__conv_depthwise(v, CNN__DX) || cnn__conv_by_lanes(v, CNN__DX))) {
        const cnn__conv r = cnn__conv_reverse(v);
        b.x = a.dy;
        b.y = a.dx;
        b.backward = 1;
        CNN__TRY(cnn__conv_depthwise(v, CNN__DX) ? cnn__depthwise_run(where, &b, &r, 1, cnn__depthwise_task)
                                                 : cnn__lanes_run(where, &b, &r));
        b = a;
        a.dx = NULL;
    }
    if (depthwise || winograd)
        a.dw = a.db = NULL;
    if (a.dx || a.dw || a.db)
        CNN__TRY(cnn__conv_run_backward(where, &a));
    return depthwise  ? cnn__depthwise_run(where, &b, v, 0, cnn__depthwise_dw_task)
           : winograd ? cnn__wino_dw_run(where, &b)
                      : CNN_OK;
}

static cnn_status cnn__conv_jobs(const char *where, cnn__conv_call a,
                                 cnn_status (*jobs)(const char *where, cnn__conv_call a)) {
    cnn__arena memory = {NULL, 0};
    a.k = cnn__k();
    a.memory = &memory;
    CNN__TRY(jobs(where, a));
    memory.base = (char *)cnn__alloc_raw(memory.used);
    if (!memory.base)
        return cnn__no_memory(where, memory.used);
    const cnn_status status = jobs(where, a);
    cnn__free(memory.base);
    return status;
}

static cnn_status cnn__cpu_conv2d_forward(const char *where, cnn__conv *v, const cnn_tensor *x,
                                          const cnn_tensor *weight, const cnn_tensor *bias, cnn_tensor *y) {
    cnn__conv_call a;
    memset(&a, 0, sizeof a);
    a.x = x->data;
    a.weight = weight->data;
    a.bias = bias ? bias->data : NULL;
    a.y = y->data;
    a.n = x->n;
    a.v = v;
    return cnn__conv_jobs(where, a, cnn__conv_forward_jobs);
}

static cnn_status cnn__cpu_conv2d_backward(const char *where, cnn__conv *v, const cnn_tensor *x,
                                           const cnn_tensor *weight, const cnn_tensor *dy, cnn_tensor *dx,
                                           cnn_tensor *dw, cnn_tensor *db) {
    cnn__conv_call a;
    memset(&a, 0, sizeof a);
    a.x = x->data;
    a.weight = weight->data;
    a.dy = dy->data;
    a.n = x->n;
    a.dx = dx ? dx->data : NULL;
    a.dw = dw ? dw->data : NULL;
    a.db = db ? db->data : NULL;
    a.v = v;
    return cnn__conv_jobs(where, a, cnn__conv_backward_jobs);
}

static cnn_status cnn__conv2d_forward(const char *where, const cnn_tensor *x, const cnn_tensor *weight,
                                      const cnn_tensor *bias, const cnn_conv2d_options *options,
                                      cnn_tensor *y) {
    cnn__conv v;
    CNN__TRY(cnn__check(where, "x", x));
    CNN__TRY(cnn__check(where, "weight", weight));
    CNN__TRY(cnn__conv_check(where, &v, x, weight, options));
    if (bias)
        CNN__TRY(cnn__check_shape(where, "bias", bias, 1, weight->n, 1, 1));
    CNN__TRY(cnn__check_shape(where, "y", y, x->n, weight->n, v.oh, v.ow));
    CNN__TRY(cnn__check_apart(where, "y", y, "x", x));
    CNN__TRY(cnn__check_apart(where, "y", y, "weight", weight));
    CNN__TRY(cnn__check_apart(where, "y", y, "bias", bias));
    return cnn__ops()->conv2d_forward(where, &v, x, weight, bias, y);
}

static cnn_status cnn__conv2d_backward(const char *where, const cnn_tensor *x, const cnn_tensor *weight,
                                       const cnn_tensor *dy, const cnn_conv2d_options *options,
                                       cnn_tensor *dx, cnn_tensor *dw, cnn_tensor *db) {
    cnn__conv v;
    CNN__TRY(cnn__check(where, "x", x));
    CNN__TRY(cnn__check(where, "weight", weight));
    CNN__TRY(cnn__conv_check(where, &v, x, weight, options));
    CNN__TRY(cnn__check_shape(where, "dy", dy, x->n, weight->n, v.oh, v.ow));
    if (dx)
        CNN__TRY(cnn__check_shape(where, "dx", dx, x->n, x->c, x->h, x->w));
    if (dw)
        CNN__TRY(cnn__check_shape(where, "dw", dw, weight->n, weight->c, weight->h, weight->w));
    if (db)
        CNN__TRY(cnn__check_shape(where, "db", db, 1, weight->n, 1, 1));
    CNN__TRY(cnn__check_results_apart(where, x, weight, dy, dx, dw, db));
    return cnn__ops()->conv2d_backward(where, &v, x, weight, dy, dx, dw, db);
}

CNN_API cnn_status cnn_conv2d_forward(const cnn_tensor *x, const cnn_tensor *weight, const cnn_tensor *bias,
                                      const cnn_conv2d_options *options, cnn_tensor *y) {
    return cnn__conv2d_forward("cnn_conv2d_forward", x, weight, bias, options, y);
}

CNN_API cnn_status cnn_conv2d_backward(const cnn_tensor *x, const cnn_tensor *weight, const cnn_tensor *dy,
                                       const cnn_conv2d_options *options, cnn_tensor *dx, cnn_tensor *dw,
                                       cnn_tensor *db) {
    return cnn__conv2d_backward("cnn_conv2d_backward", x, weight, dy, options, dx, dw, db);
}

CNN__COLD static cnn_status cnn__check_plane(const char *where, const char *name, const cnn_tensor *t) {
    CNN__TRY(cnn__check(where, name, t));
    if (t->n != 1 || t->c != 1)
        return cnn__fail(CNN_ERR_SHAPE, "%s: %s is %dx%dx%dx%d, it must be one plane, 1x1xHxW", where, name,
                         t->n, t->c, t->h, t->w);
    return CNN_OK;
}

CNN_API cnn_status cnn_corr2d_forward(const cnn_tensor *x, const cnn_tensor *kernel, cnn_tensor *y) {
    CNN__TRY(cnn__check_plane("cnn_corr2d_forward", "x", x));
    CNN__TRY(cnn__check_plane("cnn_corr2d_forward", "kernel", kernel));
    return cnn__conv2d_forward("cnn_corr2d_forward", x, kernel, NULL, NULL, y);
}

CNN_API cnn_status cnn_corr2d_backward(const cnn_tensor *x, const cnn_tensor *kernel, const cnn_tensor *dy,
                                       cnn_tensor *dx, cnn_tensor *dkernel) {
    CNN__TRY(cnn__check_plane("cnn_corr2d_backward", "x", x));
    CNN__TRY(cnn__check_plane("cnn_corr2d_backward", "kernel", kernel));
    return cnn__conv2d_backward("cnn_corr2d_backward", x, kernel, dy, NULL, dx, dkernel, NULL);
}

/* A plane flipped in both axes is its elements in reverse. */
CNN__COLD static cnn_status cnn__flipped(const char *where, const cnn_tensor *kernel, cnn_tensor *flipped) {
    *flipped = *kernel;
    const size_t n = cnn__size(kernel);
    flipped->data = (float *)cnn__alloc(n * sizeof(float));
    if (!flipped->data)
        return cnn__no_memory(where, n * sizeof(float));
    for (size_t i = 0; i < n; i++)
        flipped->data[i] = kernel->data[n - 1 - i];
    return CNN_OK;
}

CNN_API cnn_status cnn_convolve2d_forward(const cnn_tensor *x, const cnn_tensor *kernel, cnn_tensor *y) {
    static const char *const where = "cnn_convolve2d_forward";
    cnn_tensor flipped;
    CNN__TRY(cnn__check_plane(where, "x", x));
    CNN__TRY(cnn__check_plane(where, "kernel", kernel));
    CNN__TRY(cnn__check(where, "y", y));
    CNN__TRY(cnn__check_apart(where, "y", y, "kernel", kernel));
    CNN__TRY(cnn__flipped(where, kernel, &flipped));
    const cnn_status status = cnn__conv2d_forward(where, x, &flipped, NULL, NULL, y);
    cnn__free(flipped.data);
    return status;
}

CNN_API cnn_status cnn_convolve2d_backward(const cnn_tensor *x, const cnn_tensor *kernel,
                                           const cnn_tensor *dy, cnn_tensor *dx, cnn_tensor *dkernel) {
    static const char *const where = "cnn_convolve2d_backward";
    cnn_tensor flipped, gradient;
    CNN__TRY(cnn__check_plane(where, "x", x));
    CNN__TRY(cnn__check_plane(where, "kernel", kernel));
    CNN__TRY(cnn__check(where, "dy", dy));
    if (dx) {
        CNN__TRY(cnn__check(where, "dx", dx));
        CNN__TRY(cnn__check_apart(where, "dx", dx, "kernel", kernel));
    }
    if (dkernel) {
        CNN__TRY(cnn__check_shape(where, "dkernel", dkernel, 1, 1, kernel->h, kernel->w));
        CNN__TRY(cnn__check_apart(where, "dkernel", dkernel, "kernel", kernel));
        CNN__TRY(cnn__check_apart(where, "dkernel", dkernel, "x", x));
        CNN__TRY(cnn__check_apart(where, "dkernel", dkernel, "dy", dy));
        CNN__TRY(cnn__check_apart(where, "dkernel", dkernel, "dx", dx));
    }
    CNN__TRY(cnn__flipped(where, kernel, &flipped));
    cnn_status status = cnn_tensor_alloc(&gradient, 1, 1, kernel->h, kernel->w);
    if (status == CNN_OK) {
        status = cnn__conv2d_backward(where, x, &flipped, dy, NULL, dx, dkernel ? &gradient : NULL, NULL);
        const size_t n = cnn__size(kernel);
        for (size_t i = 0; i < n && status == CNN_OK && dkernel; i++)
            dkernel->data[i] += gradient.data[n - 1 - i];
        cnn__free(gradient.data);
    }
    cnn__free(flipped.data);
    return status;
}

/* ---- >>pool ----------------------------------------------------------------------------------------- */

/* Whose kernels, but for the maxima: those of single floats for planes, unless windows are 2x2 side by
   side. */
static const cnn__kernels *cnn__pool_kernels(const cnn__pool *p, int cell) {
    return cell == 1 && !(p->tiled && p->kh == 2 && p->kw == 2) ? &cnn__kernels_scalar : cnn__k();
}

/* c planes, or c channels of a block, without the places of the maxima. */
static void cnn__pool_blocks(const cnn__pool *p, const float *x, float *y, int c, int cell) {
    if (p->max)
        cnn__k()->maxpool(p, x, y, NULL, c, cell);
    else
        cnn__pool_kernels(p, cell)->avgpool(p, x, y, c, cell);
}

/* Output size along one axis, PyTorch's rule; 0 or less where the window does not fit. In ceil mode the last
   window must start on the image or the padding before it. */
static int64_t cnn__pool_size(int n, int kernel, int stride, int pad, int dilation, int ceil_mode) {
    const int64_t room =
        (int64_t)n + 2 * (int64_t)pad - (int64_t)dilation * (kernel - 1) - 1 + (ceil_mode ? stride - 1 : 0);
    int64_t out = room < 0 ? 0 : room / stride + 1;
    if (ceil_mode && (out - 1) * stride >= (int64_t)n + pad)
        out--;
    return out;
}

CNN__COLD static cnn_status cnn__pool_setup(const char *where, cnn__pool *p, int max, int h, int w,
                                            const cnn_pool2d_options *options) {
    CNN__TRY(cnn__check_pointer(where, "options", options));
    if (options->kernel_h < 1 || options->kernel_w < 1)
        return cnn__fail(CNN_ERR_ARGUMENT, "%s: kernel %dx%d must be given and at least 1x1", where,
                         options->kernel_h, options->kernel_w);
    if (options->stride_h < 0 || options->stride_w < 0)
        return cnn__fail(CNN_ERR_ARGUMENT, "%s: stride %dx%d must not be negative", where, options->stride_h,
                         options->stride_w);
    if (options->pad_h < 0 || options->pad_w < 0 || options->pad_h > options->kernel_h / 2 ||
        options->pad_w > options->kernel_w / 2)
        return cnn__fail(CNN_ERR_ARGUMENT, "%s: padding %dx%d must be between 0 and half the kernel %dx%d",
                         where, options->pad_h, options->pad_w, options->kernel_h, options->kernel_w);
    if (options->dilation_h < 0 || options->dilation_w < 0 ||
        (!max && (options->dilation_h > 1 || options->dilation_w > 1)))
        return cnn__fail(CNN_ERR_ARGUMENT, "%s: dilation %dx%d: %s", where, options->dilation_h,
                         options->dilation_w, max ? "must not be negative" : "only max pooling has dilation");
    if (max && options->exclude_padding)
        return cnn__fail(CNN_ERR_ARGUMENT, "%s: exclude_padding: only average pooling has it", where);
    memset(p, 0, sizeof *p);
    p->max = max;
    p->h = h;
    p->w = w;
    p->kh = options->kernel_h;
    p->kw = options->kernel_w;
    p->sh = cnn__or(options->stride_h, p->kh);
    p->sw = cnn__or(options->stride_w, p->kw);
    p->ph = options->pad_h;
    p->pw = options->pad_w;
    p->dh = cnn__or(options->dilation_h, 1);
    p->dw = cnn__or(options->dilation_w, 1);
    p->exclude_padding = options->exclude_padding;
    const int64_t oh = cnn__pool_size(h, p->kh, p->sh, p->ph, p->dh, options->ceil_mode);
    const int64_t ow = cnn__pool_size(w, p->kw, p->sw, p->pw, p->dw, options->ceil_mode);
    if (oh < 1 || ow < 1)
        return cnn__fail(CNN_ERR_SHAPE, "%s: kernel %dx%d does not fit its %dx%d input%s", where, p->kh,
                         p->kw, h, w, p->dh > 1 || p->dw > 1 ? " at this dilation" : "");
    /* window_at works in int: the last window's end must be one. */
    if ((int64_t)h + 2 * (int64_t)p->ph + p->sh + (int64_t)p->dh * p->kh > INT_MAX ||
        (int64_t)w + 2 * (int64_t)p->pw + p->sw + (int64_t)p->dw * p->kw > INT_MAX)
        return cnn__fail(CNN_ERR_SHAPE, "%s: %dx%d is too large for this window", where, h, w);
    p->oh = (int)oh;
    p->ow = (int)ow;
    p->tiled = p->sh == p->kh && p->sw == p->kw && !p->ph && !p->pw && p->dh == 1 && p->dw == 1 &&
               p->oh * p->kh <= h && p->ow * p->kw <= w;
    p->covers = p->tiled && p->oh * p->kh == h && p->ow * p->kw == w;
    return CNN_OK;
}

CNN_API cnn_status cnn_pool2d_shape(const cnn_tensor *x, const cnn_pool2d_options *options, int max,
                                    cnn_tensor *y) {
    static const char *const where = "cnn_pool2d_shape";
    cnn__pool p;
    CNN__TRY(cnn__check_pointer(where, "x", x));
    CNN__TRY(cnn__check_pointer(where, "y", y));
    CNN__TRY(cnn__check_sizes(where, "x", x->n, x->c, x->h, x->w));
    CNN__TRY(cnn__pool_setup(where, &p, max, x->h, x->w, options));
    y->n = x->n;
    y->c = x->c;
    y->h = p.oh;
    y->w = p.ow;
    return CNN_OK;
}

/* Pooling of planes; a task is one plane. */
typedef struct cnn__pool_call {
    const cnn__pool *p;
    const float *x;
    float *y;
    int *indices;
    const int *from;
} cnn__pool_call;

static void cnn__maxpool_task(void *context, int task, int thread) {
    const cnn__pool_call *a = (const cnn__pool_call *)context;
    const size_t out = (size_t)task * (size_t)a->p->oh * (size_t)a->p->ow;
    (void)thread;
    cnn__k()->maxpool(a->p, a->x + (size_t)task * (size_t)a->p->h * (size_t)a->p->w, a->y + out,
                      a->indices ? a->indices + out : NULL, 1, 1);
}

CNN__LOOPS static void cnn__maxpool_backward_task(void *context, int task, int thread) {
    const cnn__pool_call *a = (const cnn__pool_call *)context;
    const size_t in = (size_t)a->p->h * (size_t)a->p->w, out = (size_t)a->p->oh * (size_t)a->p->ow;
    float *dx = a->y + (size_t)task * in;
    const float *dy = a->x + (size_t)task * out;
    const int *from = a->from + (size_t)task * out;
    (void)thread;
    memset(dx, 0, in * sizeof(float));
    for (size_t i = 0; i < out; i++)
        if (from[i] >= 0)
            dx[from[i]] += dy[i];
}

static void cnn__avgpool_task(void *context, int task, int thread) {
    const cnn__pool_call *a = (const cnn__pool_call *)context;
    (void)thread;
    cnn__pool_kernels(a->p, 1)->avgpool(a->p, a->x + (size_t)task * (size_t)a->p->h * (size_t)a->p->w,
                                        a->y + (size_t)task * (size_t)a->p->oh * (size_t)a->p->ow, 1, 1);
}

static void cnn__avgpool_backward_task(void *context, int task, int thread) {
    const cnn__pool_call *a = (const cnn__pool_call *)context;
    const size_t in = (size_t)a->p->h * (size_t)a->p->w;
    (void)thread;
    cnn__pool_kernels(a->p, 1)->avgpool_backward(
        a->p, a->x + (size_t)task * (size_t)a->p->oh * (size_t)a->p->ow, a->y + (size_t)task * in, 1, 1);
}

/* Planes of a tensor as tasks. */
static cnn_status cnn__pool_run(const char *where, cnn__pool_call *a, cnn__task task, int n, int c) {
    if ((int64_t)n * c > INT_MAX || (int64_t)a->p->h * a->p->w > INT_MAX)
        return cnn__fail(CNN_ERR_SHAPE, "%s: %dx%d planes of %dx%d are too large for one call", where, n, c,
                         a->p->h, a->p->w);
    const double work =
        (double)n * c * ((double)a->p->oh * a->p->ow * a->p->kh * a->p->kw + (double)a->p->h * a->p->w);
    cnn__parallel(cnn__threads_for(work), n * c, task, a);
    return CNN_OK;
}

static cnn_status cnn__cpu_maxpool2d_forward(const char *where, const cnn__pool *p, const cnn_tensor *x,
                                             cnn_tensor *y, int *indices) {
    cnn__pool_call a = {p, x->data, y->data, indices, NULL};
    return cnn__pool_run(where, &a, cnn__maxpool_task, x->n, x->c);
}

static cnn_status cnn__cpu_maxpool2d_backward(const char *where, const cnn_tensor *dy, const int *indices,
                                              cnn_tensor *dx) {
    cnn__pool p;
    memset(&p, 0, sizeof p);
    p.h = dx->h;
    p.w = dx->w;
    p.oh = dy->h;
    p.ow = dy->w;
    cnn__pool_call a = {&p, dy->data, dx->data, NULL, indices};
    return cnn__pool_run(where, &a, cnn__maxpool_backward_task, dx->n, dx->c);
}

static cnn_status cnn__cpu_avgpool2d_forward(const char *where, const cnn__pool *p, const cnn_tensor *x,
                                             cnn_tensor *y) {
    cnn__pool_call a = {p, x->data, y->data, NULL, NULL};
    return cnn__pool_run(where, &a, cnn__avgpool_task, x->n, x->c);
}

static cnn_status cnn__cpu_avgpool2d_backward(const char *where, const cnn__pool *p, const cnn_tensor *dy,
                                              cnn_tensor *dx) {
    cnn__pool_call a = {p, dy->data, dx->data, NULL, NULL};
    return cnn__pool_run(where, &a, cnn__avgpool_backward_task, dx->n, dx->c);
}

CNN_API cnn_status cnn_maxpool2d_forward(const cnn_tensor *x, const cnn_pool2d_options *options,
                                         cnn_tensor *y, int *indices) {
    static const char *const where = "cnn_maxpool2d_forward";
    cnn__pool p;
    CNN__TRY(cnn__check(where, "x", x));
    CNN__TRY(cnn__pool_setup(where, &p, 1, x->h, x->w, options));
    CNN__TRY(cnn__check_shape(where, "y", y, x->n, x->c, p.oh, p.ow));
    CNN__TRY(cnn__check_apart(where, "y", y, "x", x));
    if (indices &&
        (cnn__overlap(indices, cnn__size(y) * sizeof(int), x->data, cnn__size(x) * sizeof(float)) ||
         cnn__overlap(indices, cnn__size(y) * sizeof(int), y->data, cnn__size(y) * sizeof(float))))
        return cnn__fail(CNN_ERR_ARGUMENT, "%s: indices overlaps x or y", where);
    return cnn__ops()->maxpool2d_forward(where, &p, x, y, indices);
}

/* The first of n indices that is none of a plane of so many elements, nor -1; n if there is none. Eight at a
   time: below -1 or beyond the plane, one of two differences has the sign bit. */
CNN__LOOPS static size_t cnn__first_outside(const int *indices, size_t n, size_t plane) {
    const unsigned last = (unsigned)(plane < INT_MAX ? plane : INT_MAX) - 1u;
    size_t i = 0;
    for (; i + 8 <= n; i += 8) {
        unsigned signs = 0;
        CNN__UNROLL
        for (int j = 0; j < 8; j++)
            signs |= ((unsigned)indices[i + (size_t)j] + 1u) | (last - (unsigned)indices[i + (size_t)j]);
        if (signs >> 31)
            break;
    }
    while (i < n && indices[i] >= -1 && indices[i] <= (int)last)
        i++;
    return i;
}

CNN_API cnn_status cnn_maxpool2d_backward(const cnn_tensor *dy, const int *indices, cnn_tensor *dx) {
    static const char *const where = "cnn_maxpool2d_backward";
    CNN__TRY(cnn__check(where, "dy", dy));
    CNN__TRY(cnn__check_pointer(where, "indices", indices));
    CNN__TRY(cnn__check(where, "dx", dx));
    if (dx->n != dy->n || dx->c != dy->c)
        return cnn__fail(CNN_ERR_SHAPE, "%s: dx has %dx%d planes, dy has %dx%d", where, dx->n, dx->c, dy->n,
                         dy->c);
    CNN__TRY(cnn__check_apart(where, "dx", dx, "dy", dy));
    const size_t n = cnn__size(dy), plane = (size_t)dx->h * (size_t)dx->w;
    if (cnn__overlap(indices, n * sizeof(int), dx->data, cnn__size(dx) * sizeof(float)))
        return cnn__fail(CNN_ERR_ARGUMENT, "%s: dx overlaps indices", where);
    const size_t bad = cnn__first_outside(indices, n, plane);
    if (bad < n)
        return cnn__fail(CNN_ERR_ARGUMENT, "%s: indices[%zu] is %d, dx has planes of %dx%d", where, bad,
                         indices[bad], dx->h, dx->w);
    return cnn__ops()->maxpool2d_backward(where, dy, indices, dx);
}

static cnn_status cnn__avgpool2d_forward(const char *where, const cnn_tensor *x,
                                         const cnn_pool2d_options *options, cnn_tensor *y) {
    cnn__pool p;
    CNN__TRY(cnn__pool_setup(where, &p, 0, x->h, x->w, options));
    CNN__TRY(cnn__check_shape(where, "y", y, x->n, x->c, p.oh, p.ow));
    CNN__TRY(cnn__check_apart(where, "y", y, "x", x));
    return cnn__ops()->avgpool2d_forward(where, &p, x, y);
}

static cnn_status cnn__avgpool2d_backward(const char *where, const cnn_tensor *dy,
                                          const cnn_pool2d_options *options, cnn_tensor *dx) {
    cnn__pool p;
    CNN__TRY(cnn__pool_setup(where, &p, 0, dx->h, dx->w, options));
    CNN__TRY(cnn__check_shape(where, "dy", dy, dx->n, dx->c, p.oh, p.ow));
    CNN__TRY(cnn__check_apart(where, "dx", dx, "dy", dy));
    return cnn__ops()->avgpool2d_backward(where, &p, dy, dx);
}

CNN_API cnn_status cnn_avgpool2d_forward(const cnn_tensor *x, const cnn_pool2d_options *options,
                                         cnn_tensor *y) {
    CNN__TRY(cnn__check("cnn_avgpool2d_forward", "x", x));
    return cnn__avgpool2d_forward("cnn_avgpool2d_forward", x, options, y);
}

CNN_API cnn_status cnn_avgpool2d_backward(const cnn_tensor *dy, const cnn_pool2d_options *options,
                                          cnn_tensor *dx) {
    CNN__TRY(cnn__check("cnn_avgpool2d_backward", "dx", dx));
    return cnn__avgpool2d_backward("cnn_avgpool2d_backward", dy, options, dx);
}

/* Global pooling is a window of the whole image. */
static cnn_pool2d_options cnn__whole_image(int h, int w) {
    cnn_pool2d_options o;
    memset(&o, 0, sizeof o);
    o.kernel_h = h;
    o.kernel_w = w;
    return o;
}

CNN_API cnn_status cnn_globalavgpool2d_forward(const cnn_tensor *x, cnn_tensor *y) {
    CNN__TRY(cnn__check("cnn_globalavgpool2d_forward", "x", x));
    const cnn_pool2d_options whole = cnn__whole_image(x->h, x->w);
    return cnn__avgpool2d_forward("cnn_globalavgpool2d_forward", x, &whole, y);
}

CNN_API cnn_status cnn_globalavgpool2d_backward(const cnn_tensor *dy, cnn_tensor *dx) {
    CNN__TRY(cnn__check("cnn_globalavgpool2d_backward", "dx", dx));
    const cnn_pool2d_options whole = cnn__whole_image(dx->h, dx->w);
    return cnn__avgpool2d_backward("cnn_globalavgpool2d_backward", dy, &whole, dx);
}

/* ---- >>activation ------------------------------------------------------------------------------------ */

#define CNN__PIECE 16384 /* elements of an element-wise task */

/* An element-wise operator: unary y = f(x), or binary dx = f(y, dy); or dropout. A task is CNN__PIECE
 * elements. */
typedef struct cnn__map_call {
    void (*unary)(const float *x, float *y, size_t n);
    void (*binary)(const float *y, const float *dy, float *dx, size_t n);
    const float *a, *b;
    float *out;
    size_t n;
    float p;
    uint64_t seed;
} cnn__map_call;

CNN__BOTH static float cnn__dropout_scale(float p, uint64_t seed, uint64_t i) {
    return cnn__uniform(seed, i) < p ? 0.0f : 1.0f / (1.0f - p);
}

static void cnn__map_task(void *context, int task, int thread) {
    const cnn__map_call *m = (const cnn__map_call *)context;
    const size_t at = (size_t)task * CNN__PIECE, n = m->n - at < CNN__PIECE ? m->n - at : CNN__PIECE;
    (void)thread;
    if (m->unary)
        m->unary(m->a + at, m->out + at, n);
    else if (m->binary)
        m->binary(m->a + at, m->b + at, m->out + at, n);
    else
        for (size_t i = at; i < at + n; i++)
            m->out[i] = m->a[i] * cnn__dropout_scale(m->p, m->seed, i);
}

static cnn_status cnn__map_run(const char *where, cnn__map_call *m) {
    const size_t tasks = (m->n + CNN__PIECE - 1) / CNN__PIECE;
    if (tasks > INT_MAX)
        return cnn__fail(CNN_ERR_SHAPE, "%s: %zu elements are too many for one call", where, m->n);
    cnn__parallel(cnn__threads_for((double)m->n), (int)tasks, cnn__map_task, m);
    return CNN_OK;
}

static cnn_status cnn__map_check(const char *where, const char *in_name, const cnn_tensor *in,
                                 const char *out_name, cnn_tensor *out) {
    CNN__TRY(cnn__check(where, in_name, in));
    CNN__TRY(cnn__check_shape(where, out_name, out, in->n, in->c, in->h, in->w));
    return cnn__check_apart_or_same(where, out_name, out, in_name, in);
}

static cnn_status cnn__binary_check(const char *where, const cnn_tensor *y, const cnn_tensor *dy,
                                    cnn_tensor *dx) {
    CNN__TRY(cnn__map_check(where, "dy", dy, "dx", dx));
    CNN__TRY(cnn__check_shape(where, "y", y, dy->n, dy->c, dy->h, dy->w));
    return cnn__check_apart_or_same(where, "dx", dx, "y", y);
}

static cnn__unary_kernel cnn__activation(const cnn__kernels *k, cnn_layer_kind kind) {
    return kind == CNN_SIGMOID ? k->sigmoid : kind == CNN_TANH ? k->tanh : k->relu;
}

static int cnn__is_activation(cnn_layer_kind kind) {
    return kind == CNN_SIGMOID || kind == CNN_TANH || kind == CNN_RELU;
}

static cnn__binary_kernel cnn__activation_backward(const cnn__kernels *k, cnn_layer_kind kind) {
    return kind == CNN_SIGMOID ? k->sigmoid_backward : kind == CNN_TANH ? k->tanh_backward : k->relu_backward;
}

static cnn_status cnn__cpu_activation_forward(const char *where, cnn_layer_kind kind, const cnn_tensor *x,
                                              cnn_tensor *y) {
    cnn__map_call m = {cnn__activation(cnn__k(), kind), NULL, x->data, NULL, y->data, cnn__size(x), 0, 0};
    return cnn__map_run(where, &m);
}

static cnn_status cnn__cpu_activation_backward(const char *where, cnn_layer_kind kind, const cnn_tensor *y,
                                               const cnn_tensor *dy, cnn_tensor *dx) {
    cnn__map_call m = {
        NULL, cnn__activation_backward(cnn__k(), kind), y->data, dy->data, dx->data, cnn__size(y), 0, 0};
    return cnn__map_run(where, &m);
}

static cnn_status cnn__activation_forward(const char *where, cnn_layer_kind kind, const cnn_tensor *x,
                                          cnn_tensor *y) {
    CNN__TRY(cnn__map_check(where, "x", x, "y", y));
    return cnn__ops()->activation_forward(where, kind, x, y);
}

static cnn_status cnn__activation_gradient(const char *where, cnn_layer_kind kind, const cnn_tensor *y,
                                           const cnn_tensor *dy, cnn_tensor *dx) {
    CNN__TRY(cnn__binary_check(where, y, dy, dx));
    return cnn__ops()->activation_backward(where, kind, y, dy, dx);
}

CNN_API cnn_status cnn_sigmoid_forward(const cnn_tensor *x, cnn_tensor *y) {
    return cnn__activation_forward("cnn_sigmoid_forward", CNN_SIGMOID, x, y);
}

CNN_API cnn_status cnn_sigmoid_backward(const cnn_tensor *y, const cnn_tensor *dy, cnn_tensor *dx) {
    return cnn__activation_gradient("cnn_sigmoid_backward", CNN_SIGMOID, y, dy, dx);
}

CNN_API cnn_status cnn_tanh_forward(const cnn_tensor *x, cnn_tensor *y) {
    return cnn__activation_forward("cnn_tanh_forward", CNN_TANH, x, y);
}

CNN_API cnn_status cnn_tanh_backward(const cnn_tensor *y, const cnn_tensor *dy, cnn_tensor *dx) {
    return cnn__activation_gradient("cnn_tanh_backward", CNN_TANH, y, dy, dx);
}

CNN_API cnn_status cnn_relu_forward(const cnn_tensor *x, cnn_tensor *y) {
    return cnn__activation_forward("cnn_relu_forward", CNN_RELU, x, y);
}

CNN_API cnn_status cnn_relu_backward(const cnn_tensor *y, const cnn_tensor *dy, cnn_tensor *dx) {
    return cnn__activation_gradient("cnn_relu_backward", CNN_RELU, y, dy, dx);
}

static cnn_status cnn__cpu_dropout(const char *where, const cnn_tensor *x, float p, uint64_t seed,
                                   cnn_tensor *y) {
    cnn__map_call m = {NULL, NULL, x->data, NULL, y->data, cnn__size(x), p, seed};
    return cnn__map_run(where, &m);
}

static cnn_status cnn__dropout(const char *where, const char *in, const char *out, const cnn_tensor *x,
                               float p, int training, uint64_t seed, cnn_tensor *y) {
    CNN__TRY(cnn__map_check(where, in, x, out, y));
    if (!(p >= 0 && p < 1))
        return cnn__fail(CNN_ERR_ARGUMENT, "%s: p is %g, it must be at least 0 and less than 1", where,
                         (double)p);
    if (!training)
        return cnn_tensor_copy(y, x);
    return cnn__ops()->dropout(where, x, p, seed, y);
}

CNN_API cnn_status cnn_dropout_forward(const cnn_tensor *x, float p, int training, uint64_t seed,
                                       cnn_tensor *y) {
    return cnn__dropout("cnn_dropout_forward", "x", "y", x, p, training, seed, y);
}

CNN_API cnn_status cnn_dropout_backward(const cnn_tensor *dy, float p, int training, uint64_t seed,
                                        cnn_tensor *dx) {
    return cnn__dropout("cnn_dropout_backward", "dy", "dx", dy, p, training, seed, dx);
}

/* Softmax: a task is `band` samples. */
typedef struct cnn__softmax_call {
    const float *x, *dy;
    float *y;
    int n, c;
    size_t plane;
    int band;
} cnn__softmax_call;

static void cnn__softmax_task(void *context, int task, int thread) {
    const cnn__softmax_call *a = (const cnn__softmax_call *)context;
    const cnn__kernels *k = cnn__k();
    const int end = a->n - task * a->band < a->band ? a->n : (task + 1) * a->band;
    const int together = a->plane == 1 ? a->band : 1;
    (void)thread;
    for (int s = task * a->band; s < end; s += together) {
        const size_t at = (size_t)s * (size_t)a->c * a->plane;
        if (a->dy)
            k->softmax_backward(a->x + at, a->dy + at, a->y + at, a->c, a->plane,
                                cnn__min(together, end - s));
        else
            k->softmax(a->x + at, a->y + at, NULL, NULL, a->c, a->plane, cnn__min(together, end - s));
    }
}

static cnn_status cnn__softmax_run(const cnn_tensor *x, const cnn_tensor *dy, cnn_tensor *y, double work) {
    const size_t plane = (size_t)x->h * (size_t)x->w, sample = plane * (size_t)x->c;
    const int band = sample < CNN__PIECE ? (int)(CNN__PIECE / sample) : 1;
    cnn__softmax_call a = {x->data, dy ? dy->data : NULL, y->data, x->n, x->c, plane, band};
    cnn__parallel(cnn__threads_for(work * (double)cnn__size(x)), (x->n - 1) / band + 1, cnn__softmax_task,
                  &a);
    return CNN_OK;
}

static cnn_status cnn__cpu_softmax_forward(const char *where, const cnn_tensor *x, cnn_tensor *y) {
    (void)where;
    return cnn__softmax_run(x, NULL, y, 10.0);
}

static cnn_status cnn__cpu_softmax_backward(const char *where, const cnn_tensor *y, const cnn_tensor *dy,
                                            cnn_tensor *dx) {
    (void)where;
    return cnn__softmax_run(y, dy, dx, 1.0);
}

CNN_API cnn_status cnn_softmax_forward(const cnn_tensor *x, cnn_tensor *y) {
    CNN__TRY(cnn__map_check("cnn_softmax_forward", "x", x, "y", y));
    return cnn__ops()->softmax_forward("cnn_softmax_forward", x, y);
}

CNN_API cnn_status cnn_softmax_backward(const cnn_tensor *y, const cnn_tensor *dy, cnn_tensor *dx) {
    CNN__TRY(cnn__binary_check("cnn_softmax_backward", y, dy, dx));
    return cnn__ops()->softmax_backward("cnn_softmax_backward", y, dy, dx);
}

static cnn_status cnn__flatten(const char *where, const char *flat_name, const cnn_tensor *flat,
                               const char *name, const cnn_tensor *t, const float *from, float *to) {
    CNN__TRY(cnn__check(where, name, t));
    CNN__TRY(cnn__check(where, flat_name, flat));
    if (flat->n != t->n || flat->h != 1 || flat->w != 1 || cnn__size(flat) != cnn__size(t))
        return cnn__fail(CNN_ERR_SHAPE, "%s: %s is %dx%dx%dx%d, %s %dx%dx%dx%d", where, flat_name, flat->n,
                         flat->c, flat->h, flat->w, name, t->n, t->c, t->h, t->w);
    CNN__TRY(cnn__check_apart_or_same(where, flat_name, flat, name, t));
    return from == to ? CNN_OK : cnn__ops()->copy(where, to, from, cnn__size(t));
}

CNN_API cnn_status cnn_flatten_forward(const cnn_tensor *x, cnn_tensor *y) {
    return cnn__flatten("cnn_flatten_forward", "y", y, "x", x, x ? x->data : NULL, y ? y->data : NULL);
}

CNN_API cnn_status cnn_flatten_backward(const cnn_tensor *dy, cnn_tensor *dx) {
    return cnn__flatten("cnn_flatten_backward", "dy", dy, "dx", dx, dy ? dy->data : NULL,
                        dx ? dx->data : NULL);
}

/* ---- >>linear ---------------------------------------------------------------------------------------

   On rows (samples of `in` values) no copy is needed: y and dx have one sample's sum per row and column, dw
   one row of x per step. A task is a band of outputs, or in dx of inputs. */
typedef struct cnn__linear_call {
    const cnn__kernels *k;
    const float *x, *w, *b, *dy;
    float *y, *dx, *dw, *db;
    float *panels; /* dx: of dy */
    int n, in, out, band;
    const int *tap;
} cnn__linear_call;

#define CNN__SAMPLES 64 /* of a product's or a dot's steps at a time: the table of taps */

static void cnn__linear_forward_task(void *context, int task, int thread) {
    const cnn__linear_call *l = (const cnn__linear_call *)context;
    const int m0 = task * l->band, m1 = cnn__min(m0 + l->band, l->out);
    cnn__dot a;
    (void)thread;
    memset(&a, 0, sizeof a);
    for (int i = 0; i < l->n; i++)
        for (int m = m0; m < m1; m++)
            l->y[(size_t)i * (size_t)l->out + (size_t)m] = l->b ? l->b[m] : 0.0f;
    a.rows = m1 - m0;
    a.lines = 1;
    a.n = (size_t)l->in;
    a.tap = l->tap;
    a.y = l->w + (size_t)m0 * (size_t)l->in;
    a.ym = l->in;
    a.gm = 1;
    a.gk = l->out;
    for (int i = 0; i < l->n; i += CNN__SAMPLES) {
        a.steps = cnn__min(CNN__SAMPLES, l->n - i);
        a.x = l->x + (size_t)i * (size_t)l->in;
        a.g = l->y + (size_t)i * (size_t)l->out + m0;
        l->k->dot(&a);
    }
}

static void cnn__linear_dx_task(void *context, int task, int thread) {
    const cnn__linear_call *l = (const cnn__linear_call *)context;
    const int i0 = task * l->band, i1 = cnn__min(i0 + l->band, l->in);
    cnn__product a;
    (void)thread;
    memset(&a, 0, sizeof a);
    a.rows = l->n;
    a.n = (size_t)(i1 - i0);
    a.w = l->panels;
    a.panel = l->out;
    a.ym = l->in;
    a.y = l->dx + i0;
    a.tap = l->tap;
    for (int o = 0; o < l->out; o += CNN__SAMPLES) {
        a.first = o;
        a.steps = cnn__min(CNN__SAMPLES, l->out - o);
        a.x = l->w + (size_t)o * (size_t)l->in + i0;
        a.start = o ? CNN__ACCUMULATE : CNN__ZERO;
        cnn__product_run(l->k, &a);
    }
}

static void cnn__linear_dw_task(void *context, int task, int thread) {
    const cnn__linear_call *l = (const cnn__linear_call *)context;
    const int m0 = task * l->band, m1 = cnn__min(m0 + l->band, l->out);
    (void)thread;
    if (l->db)
        for (int i = 0; i < l->n; i++)
            l->k->add(l->db + m0, l->dy + (size_t)i * (size_t)l->out + m0, (size_t)(m1 - m0));
    if (!l->dw)
        return;
    cnn__product a;
    memset(&a, 0, sizeof a);
    a.rows = m1 - m0;
    a.n = (size_t)l->in;
    a.panel = 1;
    a.wk = l->out;
    a.ym = l->in;
    a.y = l->dw + (size_t)m0 * (size_t)l->in;
    a.tap = l->tap;
    a.start = CNN__ACCUMULATE;
    for (int i = 0; i < l->n; i += CNN__SAMPLES) {
        a.steps = cnn__min(CNN__SAMPLES, l->n - i);
        a.x = l->x + (size_t)i * (size_t)l->in;
        a.w = l->dy + (size_t)i * (size_t)l->out + m0;
        cnn__product_run(l->k, &a);
    }
}

CNN__COLD static cnn_status cnn__linear_check(const char *where, const cnn_tensor *x,
                                              const cnn_tensor *weight, int *in) {
    CNN__TRY(cnn__check(where, "x", x));
    CNN__TRY(cnn__check(where, "weight", weight));
    const size_t features = cnn__size(x) / (size_t)x->n;
    if (features > INT_MAX / CNN__SAMPLES || weight->n > INT_MAX / CNN__SAMPLES)
        return cnn__fail(CNN_ERR_SHAPE, "%s: %zu features to %d are too many", where, features, weight->n);
    *in = (int)features;
    if (weight->c != *in || weight->h != 1 || weight->w != 1)
        return cnn__fail(CNN_ERR_SHAPE,
                         "%s: weight is %dx%dx%dx%d, x has %d features a sample: weight must be OUTx%dx1x1",
                         where, weight->n, weight->c, weight->h, weight->w, *in, *in);
    return CNN_OK;
}

static void cnn__linear_taps(int *tap, int in) {
    for (int i = 0; i < CNN__SAMPLES; i++)
        tap[i] = i * in;
}

static int cnn__bands(int count, int band) {
    return (count + band - 1) / band;
}

static cnn_status cnn__cpu_linear_forward(const char *where, int in, const cnn_tensor *x,
                                          const cnn_tensor *weight, const cnn_tensor *bias, cnn_tensor *y) {
    (void)where;
    int tap[CNN__SAMPLES];
    cnn__linear_taps(tap, in);
    cnn__linear_call l;
    memset(&l, 0, sizeof l);
    l.k = cnn__k();
    l.x = x->data;
    l.w = weight->data;
    l.b = bias ? bias->data : NULL;
    l.y = y->data;
    l.n = x->n;
    l.in = in;
    l.out = weight->n;
    l.band = 16;
    l.tap = tap;
    cnn__parallel(cnn__threads_for((double)x->n * in * l.out), cnn__bands(l.out, l.band),
                  cnn__linear_forward_task, &l);
    return CNN_OK;
}

static cnn_status cnn__cpu_linear_backward(const char *where, int in, const cnn_tensor *x,
                                           const cnn_tensor *weight, const cnn_tensor *dy, cnn_tensor *dx,
                                           cnn_tensor *dw, cnn_tensor *db) {
    (void)where;
    int tap[CNN__SAMPLES];
    cnn__linear_call l;
    memset(&l, 0, sizeof l);
    l.k = cnn__k();
    l.x = x->data;
    l.w = weight->data;
    l.dy = dy->data;
    l.dx = dx ? dx->data : NULL;
    l.dw = dw ? dw->data : NULL;
    l.db = db ? db->data : NULL;
    l.n = x->n;
    l.in = in;
    l.out = weight->n;
    l.tap = tap;
    const int threads = cnn__threads_for((double)x->n * in * l.out);
    cnn__linear_taps(tap, in);
    if (dx) {
        const size_t bytes = cnn__size(dy) * sizeof(float);
        l.panels = (float *)cnn__alloc_raw(bytes);
        if (!l.panels)
            return cnn__no_memory(where, bytes);
        cnn__panels(l.k, l.dy, (size_t)l.out, 1, l.n, l.out, 0, 1, l.panels);
        l.band = 256;
        cnn__parallel(threads, cnn__bands(in, l.band), cnn__linear_dx_task, &l);
        cnn__free(l.panels);
    }
    if (dw || db) {
        l.band = 8;
        cnn__parallel(threads, cnn__bands(l.out, l.band), cnn__linear_dw_task, &l);
    }
    return CNN_OK;
}

CNN_API cnn_status cnn_linear_forward(const cnn_tensor *x, const cnn_tensor *weight, const cnn_tensor *bias,
                                      cnn_tensor *y) {
    static const char *const where = "cnn_linear_forward";
    int in = 0;
    CNN__TRY(cnn__linear_check(where, x, weight, &in));
    if (bias)
        CNN__TRY(cnn__check_shape(where, "bias", bias, 1, weight->n, 1, 1));
    CNN__TRY(cnn__check_shape(where, "y", y, x->n, weight->n, 1, 1));
    CNN__TRY(cnn__check_apart(where, "y", y, "x", x));
    CNN__TRY(cnn__check_apart(where, "y", y, "weight", weight));
    CNN__TRY(cnn__check_apart(where, "y", y, "bias", bias));
    return cnn__ops()->linear_forward(where, in, x, weight, bias, y);
}

CNN_API cnn_status cnn_linear_backward(const cnn_tensor *x, const cnn_tensor *weight, const cnn_tensor *dy,
                                       cnn_tensor *dx, cnn_tensor *dw, cnn_tensor *db) {
    static const char *const where = "cnn_linear_backward";
    int in = 0;
    CNN__TRY(cnn__linear_check(where, x, weight, &in));
    CNN__TRY(cnn__check_shape(where, "dy", dy, x->n, weight->n, 1, 1));
    if (dx)
        CNN__TRY(cnn__check_shape(where, "dx", dx, x->n, x->c, x->h, x->w));
    if (dw)
        CNN__TRY(cnn__check_shape(where, "dw", dw, weight->n, weight->c, 1, 1));
    if (db)
        CNN__TRY(cnn__check_shape(where, "db", db, 1, weight->n, 1, 1));
    CNN__TRY(cnn__check_results_apart(where, x, weight, dy, dx, dw, db));
    return cnn__ops()->linear_backward(where, in, x, weight, dy, dx, dw, db);
}

/* ---- >>loss ----------------------------------------------------------------------------------------- */

CNN__COLD static cnn_status cnn__check_labels(const char *where, const int *labels, int n, int classes) {
    for (int i = 0; i < n; i++)
        if (labels[i] < 0 || labels[i] >= classes)
            return cnn__fail(CNN_ERR_FORMAT, "%s: label %d of sample %d is outside the classes 0 to %d",
                             where, labels[i], i, classes - 1);
    return CNN_OK;
}

static cnn_status cnn__logits_check(const char *where, const cnn_tensor *logits, const int *labels) {
    CNN__TRY(cnn__check(where, "logits", logits));
    CNN__TRY(cnn__check_pointer(where, "labels", labels));
    if (logits->h != 1 || logits->w != 1)
        return cnn__fail(CNN_ERR_SHAPE, "%s: logits is %dx%dx%dx%d, it must be one value a class: NxKx1x1",
                         where, logits->n, logits->c, logits->h, logits->w);
    return cnn__check_labels(where, labels, logits->n, logits->c);
}

static double cnn__max_logit(const float *x, int classes) {
    double max = (double)x[0];
    for (int k = 1; k < classes; k++)
        max = (double)x[k] > max || x[k] != x[k] ? (double)x[k] : max;
    return max;
}

static double cnn__sum_exp(const float *x, int classes, double max) {
    double sum = 0;
    for (int k = 0; k < classes; k++)
        sum += exp((double)x[k] - max);
    return sum;
}

static cnn_status cnn__cpu_cross_entropy_forward(const char *where, const cnn_tensor *logits,
                                                 const int *labels, double *loss) {
    double total = 0;
    (void)where;
    for (int i = 0; i < logits->n; i++) {
        const float *x = logits->data + (size_t)i * (size_t)logits->c;
        const double max = cnn__max_logit(x, logits->c);
        total += log(cnn__sum_exp(x, logits->c, max)) + (max - (double)x[labels[i]]);
    }
    *loss = total / logits->n;
    return CNN_OK;
}

static cnn_status cnn__cpu_cross_entropy_backward(const char *where, const cnn_tensor *logits,
                                                  const int *labels, cnn_tensor *dlogits) {
    const int classes = logits->c;
    (void)where;
    for (int i = 0; i < logits->n; i++) {
        const float *x = logits->data + (size_t)i * (size_t)classes;
        float *d = dlogits->data + (size_t)i * (size_t)classes;
        const double max = cnn__max_logit(x, classes), sum = cnn__sum_exp(x, classes, max);
        for (int k = 0; k < classes; k++)
            d[k] = (float)((exp((double)x[k] - max) / sum - (k == labels[i] ? 1.0 : 0.0)) / logits->n);
    }
    return CNN_OK;
}

CNN_API cnn_status cnn_cross_entropy_forward(const cnn_tensor *logits, const int *labels, double *loss) {
    static const char *const where = "cnn_cross_entropy_forward";
    CNN__TRY(cnn__logits_check(where, logits, labels));
    CNN__TRY(cnn__check_pointer(where, "loss", loss));
    return cnn__ops()->cross_entropy_forward(where, logits, labels, loss);
}

CNN_API cnn_status cnn_cross_entropy_backward(const cnn_tensor *logits, const int *labels,
                                              cnn_tensor *dlogits) {
    static const char *const where = "cnn_cross_entropy_backward";
    CNN__TRY(cnn__logits_check(where, logits, labels));
    CNN__TRY(cnn__map_check(where, "logits", logits, "dlogits", dlogits));
    if (cnn__overlap(labels, (size_t)logits->n * sizeof(int), dlogits->data,
                     cnn__size(dlogits) * sizeof(float)))
        return cnn__fail(CNN_ERR_ARGUMENT, "%s: dlogits overlaps labels", where);
    return cnn__ops()->cross_entropy_backward(where, logits, labels, dlogits);
}

static cnn_status cnn__squared_error_check(const char *where, const cnn_tensor *y, const cnn_tensor *target,
                                           cnn_reduction reduction) {
    CNN__TRY(cnn__check(where, "y", y));
    CNN__TRY(cnn__check_shape(where, "target", target, y->n, y->c, y->h, y->w));
    if (reduction != CNN_MEAN && reduction != CNN_SUM)
        return cnn__fail(CNN_ERR_ARGUMENT, "%s: reduction %d is unknown", where, (int)reduction);
    return CNN_OK;
}

static cnn_status cnn__cpu_squared_error_forward(const char *where, const cnn_tensor *y,
                                                 const cnn_tensor *target, double *sum) {
    const size_t n = cnn__size(y);
    (void)where;
    *sum = 0;
    for (size_t i = 0; i < n; i++) {
        const double d = (double)y->data[i] - (double)target->data[i];
        *sum += d * d;
    }
    return CNN_OK;
}

static cnn_status cnn__cpu_squared_error_backward(const char *where, const cnn_tensor *y,
                                                  const cnn_tensor *target, float scale, cnn_tensor *dy) {
    const size_t n = cnn__size(y);
    (void)where;
    for (size_t i = 0; i < n; i++)
        dy->data[i] = scale * (y->data[i] - target->data[i]);
    return CNN_OK;
}

CNN_API cnn_status cnn_squared_error_forward(const cnn_tensor *y, const cnn_tensor *target,
                                             cnn_reduction reduction, double *loss) {
    static const char *const where = "cnn_squared_error_forward";
    double sum = 0;
    CNN__TRY(cnn__squared_error_check(where, y, target, reduction));
    CNN__TRY(cnn__check_pointer(where, "loss", loss));
    CNN__TRY(cnn__ops()->squared_error_forward(where, y, target, &sum));
    *loss = reduction == CNN_MEAN ? sum / (double)cnn__size(y) : sum;
    return CNN_OK;
}

CNN_API cnn_status cnn_squared_error_backward(const cnn_tensor *y, const cnn_tensor *target,
                                              cnn_reduction reduction, cnn_tensor *dy) {
    static const char *const where = "cnn_squared_error_backward";
    CNN__TRY(cnn__squared_error_check(where, y, target, reduction));
    CNN__TRY(cnn__check_shape(where, "dy", dy, y->n, y->c, y->h, y->w));
    CNN__TRY(cnn__check_apart_or_same(where, "dy", dy, "y", y));
    CNN__TRY(cnn__check_apart_or_same(where, "dy", dy, "target", target));
    const size_t n = cnn__size(y);
    const float scale = reduction == CNN_MEAN ? 2.0f / (float)n : 2.0f;
    return cnn__ops()->squared_error_backward(where, y, target, scale, dy);
}

/* ---- >>layers ----------------------------------------------------------------------------------------- */

static cnn_layer cnn__layer(cnn_layer_kind kind) {
    cnn_layer l;
    memset(&l, 0, sizeof l);
    l.kind = kind;
    return l;
}

static cnn_layer cnn__windowed(cnn_layer_kind kind, int out, int kernel, int stride, int padding) {
    cnn_layer l = cnn__layer(kind);
    l.out = out;
    l.kernel = kernel;
    l.stride = stride;
    l.padding = padding;
    return l;
}

CNN_API cnn_layer cnn_conv2d(int out, int kernel, int stride, int padding) {
    return cnn__windowed(CNN_CONV2D, out, kernel, stride, padding);
}

CNN_API cnn_layer cnn_maxpool2d(int kernel, int stride, int padding) {
    return cnn__windowed(CNN_MAXPOOL2D, 0, kernel, stride, padding);
}

CNN_API cnn_layer cnn_avgpool2d(int kernel, int stride, int padding) {
    return cnn__windowed(CNN_AVGPOOL2D, 0, kernel, stride, padding);
}

CNN_API cnn_layer cnn_globalavgpool2d(void) {
    return cnn__layer(CNN_GLOBALAVGPOOL2D);
}

CNN_API cnn_layer cnn_linear(int out) {
    return cnn__windowed(CNN_LINEAR, out, 0, 0, 0);
}

CNN_API cnn_layer cnn_sigmoid(void) {
    return cnn__layer(CNN_SIGMOID);
}

CNN_API cnn_layer cnn_tanh(void) {
    return cnn__layer(CNN_TANH);
}

CNN_API cnn_layer cnn_relu(void) {
    return cnn__layer(CNN_RELU);
}

CNN_API cnn_layer cnn_softmax(void) {
    return cnn__layer(CNN_SOFTMAX);
}

CNN_API cnn_layer cnn_dropout(float p) {
    cnn_layer l = cnn__layer(CNN_DROPOUT);
    l.p = p;
    return l;
}

CNN_API cnn_layer cnn_flatten(void) {
    return cnn__layer(CNN_FLATTEN);
}

enum { /* which fields a kind has */
       CNN__HAS_OUT = 1,
       CNN__HAS_WINDOW = 2, /* kernel, stride, padding */
       CNN__HAS_DILATION = 4,
       CNN__HAS_CONV = 8, /* groups, padding_mode */
       CNN__HAS_BIAS = 16,
       CNN__HAS_CEIL = 32,
       CNN__HAS_EXCLUDE = 64,
       CNN__HAS_P = 128
};

typedef struct cnn__kind {
    const char *name;
    int fields;
    int reads_y; /* the backward pass reads the layer's own output */
    int in_place;
} cnn__kind;

static const cnn__kind cnn__kinds[] = {
    {"none", 0, 0, 0},
    {"conv2d", CNN__HAS_OUT | CNN__HAS_WINDOW | CNN__HAS_DILATION | CNN__HAS_CONV | CNN__HAS_BIAS, 0, 0},
    {"maxpool2d", CNN__HAS_WINDOW | CNN__HAS_DILATION | CNN__HAS_CEIL, 1, 0},
    {"avgpool2d", CNN__HAS_WINDOW | CNN__HAS_CEIL | CNN__HAS_EXCLUDE, 0, 0},
    {"globalavgpool2d", 0, 0, 0},
    {"linear", CNN__HAS_OUT | CNN__HAS_BIAS, 0, 0},
    {"sigmoid", 0, 1, 1},
    {"tanh", 0, 1, 1},
    {"relu", 0, 1, 1},
    {"softmax", 0, 1, 1},
    {"dropout", CNN__HAS_P, 0, 1},
    {"flatten", 0, 0, 1}};

/* A field that the kind does not have must be 0. */
CNN__COLD static cnn_status cnn__check_fields(const char *where, const cnn_layer *l) {
    const struct {
        const char *name;
        int value, needs;
    } fields[] = {{"out", l->out, CNN__HAS_OUT},
                  {"kernel", l->kernel, CNN__HAS_WINDOW},
                  {"kernel_h", l->kernel_h, CNN__HAS_WINDOW},
                  {"kernel_w", l->kernel_w, CNN__HAS_WINDOW},
                  {"stride", l->stride, CNN__HAS_WINDOW},
                  {"stride_h", l->stride_h, CNN__HAS_WINDOW},
                  {"stride_w", l->stride_w, CNN__HAS_WINDOW},
                  {"padding", l->padding, CNN__HAS_WINDOW},
                  {"pad_top", l->pad_top, CNN__HAS_WINDOW},
                  {"pad_bottom", l->pad_bottom, CNN__HAS_WINDOW},
                  {"pad_left", l->pad_left, CNN__HAS_WINDOW},
                  {"pad_right", l->pad_right, CNN__HAS_WINDOW},
                  {"dilation", l->dilation, CNN__HAS_DILATION},
                  {"dilation_h", l->dilation_h, CNN__HAS_DILATION},
                  {"dilation_w", l->dilation_w, CNN__HAS_DILATION},
                  {"groups", l->groups, CNN__HAS_CONV},
                  {"padding_mode", (int)l->padding_mode, CNN__HAS_CONV},
                  {"no_bias", l->no_bias, CNN__HAS_BIAS},
                  {"no_winograd", l->no_winograd, CNN__HAS_CONV},
                  {"ceil_mode", l->ceil_mode, CNN__HAS_CEIL},
                  {"exclude_padding", l->exclude_padding, CNN__HAS_EXCLUDE},
                  {"p", l->p != 0, CNN__HAS_P}};
    const int has = cnn__kinds[l->kind].fields;
    for (size_t i = 0; i < sizeof fields / sizeof fields[0]; i++)
        if (fields[i].value && !(has & fields[i].needs))
            return cnn__fail(CNN_ERR_ARGUMENT, "%s: this kind of layer has no %s, it must be 0", where,
                             fields[i].name);
    if ((has & CNN__HAS_OUT) && l->out < 1)
        return cnn__fail(CNN_ERR_ARGUMENT, "%s: out is %d, it must be given and at least 1", where, l->out);
    if ((has & CNN__HAS_P) && !(l->p >= 0 && l->p < 1))
        return cnn__fail(CNN_ERR_ARGUMENT, "%s: p is %g, it must be at least 0 and less than 1", where,
                         (double)l->p);
    return CNN_OK;
}

static cnn_conv2d_options cnn__layer_conv(const cnn_layer *l) {
    cnn_conv2d_options o;
    memset(&o, 0, sizeof o);
    o.stride_h = cnn__or(l->stride_h, l->stride);
    o.stride_w = cnn__or(l->stride_w, l->stride);
    o.pad_top = cnn__or(l->pad_top, l->padding);
    o.pad_bottom = cnn__or(l->pad_bottom, l->padding);
    o.pad_left = cnn__or(l->pad_left, l->padding);
    o.pad_right = cnn__or(l->pad_right, l->padding);
    o.dilation_h = cnn__or(l->dilation_h, l->dilation);
    o.dilation_w = cnn__or(l->dilation_w, l->dilation);
    o.groups = l->groups;
    o.padding_mode = l->padding_mode;
    o.no_winograd = l->no_winograd;
    return o;
}

CNN__COLD static cnn_status cnn__layer_conv_setup(const char *where, const cnn_layer *l, int c, int h, int w,
                                                  int cell, cnn__conv *v) {
    const cnn_conv2d_options o = cnn__layer_conv(l);
    const int kh = cnn__or(l->kernel_h, l->kernel), kw = cnn__or(l->kernel_w, l->kernel);
    if (kh < 1 || kw < 1)
        return cnn__fail(CNN_ERR_ARGUMENT, "%s: kernel %dx%d must be given and at least 1x1", where, kh, kw);
    return cnn__conv_setup(where, v, c, h, w, l->out, kh, kw, &o, cell);
}

CNN__COLD static cnn_status cnn__layer_pool_setup(const char *where, const cnn_layer *l, int h, int w,
                                                  cnn__pool *p) {
    cnn_pool2d_options o = cnn__whole_image(h, w);
    if (l->kind != CNN_GLOBALAVGPOOL2D) {
        const cnn_conv2d_options v = cnn__layer_conv(l);
        if (v.pad_top != v.pad_bottom || v.pad_left != v.pad_right)
            return cnn__fail(CNN_ERR_ARGUMENT,
                             "%s: padding %d,%d,%d,%d: a pool's must be equal on opposite sides", where,
                             v.pad_top, v.pad_bottom, v.pad_left, v.pad_right);
        o.kernel_h = cnn__or(l->kernel_h, l->kernel);
        o.kernel_w = cnn__or(l->kernel_w, l->kernel);
        o.stride_h = v.stride_h;
        o.stride_w = v.stride_w;
        o.pad_h = v.pad_top;
        o.pad_w = v.pad_left;
        o.dilation_h = v.dilation_h;
        o.dilation_w = v.dilation_w;
        o.ceil_mode = l->ceil_mode;
        o.exclude_padding = l->exclude_padding;
    }
    return cnn__pool_setup(where, p, l->kind == CNN_MAXPOOL2D, h, w, &o);
}

/* "layer 3 (conv2d)" */
static void cnn__layer_name(char *to, size_t size, int index, const char *kind) {
    cnn__writer out = {to, 0, size};
    cnn__put_text(&out, "layer ");
    cnn__put_integer(&out, (uint64_t)index, 1);
    cnn__put_text(&out, " (");
    cnn__put_text(&out, kind);
    cnn__put_text(&out, ")");
    to[out.length] = 0;
}

/* How far apart two neighbouring elements look on the network's input, and how many positions there are:
   along one axis. Flattening leaves both, so that the linear layer behind it sees all positions. */
typedef struct cnn__view {
    uint64_t size, jump, positions;
} cnn__view;

static void cnn__view_window(cnn__view *v, int kernel, int stride, int dilation, int out) {
    v->size += (uint64_t)(kernel - 1) * (uint64_t)dilation * v->jump;
    v->jump *= (uint64_t)stride;
    v->positions = (uint64_t)out;
}

static void cnn__view_all(cnn__view *v) {
    v->size += (v->positions - 1) * v->jump;
    v->positions = 1;
}

CNN__COLD static cnn_status cnn__infer_conv(const char *where, const cnn_layer *l, cnn_layer_info *i,
                                            cnn__view *vh, cnn__view *vw) {
    cnn__conv v;
    CNN__TRY(cnn__layer_conv_setup(where, l, i->in_c, i->in_h, i->in_w, CNN__LANES, &v));
    i->c = l->out;
    i->h = v.oh;
    i->w = v.ow;
    i->weights = (size_t)l->out * (size_t)v.steps;
    i->macs = (uint64_t)i->weights * (uint64_t)v.oh * (uint64_t)v.ow;
    cnn__view_window(vh, v.kh, v.sh, v.dh, v.oh);
    cnn__view_window(vw, v.kw, v.sw, v.dw, v.ow);
    return CNN_OK;
}

CNN__COLD static cnn_status cnn__infer_pool(const char *where, const cnn_layer *l, cnn_layer_info *i,
                                            cnn__view *vh, cnn__view *vw) {
    cnn__pool p;
    CNN__TRY(cnn__layer_pool_setup(where, l, i->in_h, i->in_w, &p));
    i->c = i->in_c;
    i->h = p.oh;
    i->w = p.ow;
    cnn__view_window(vh, p.kh, p.sh, p.dh, p.oh);
    cnn__view_window(vw, p.kw, p.sw, p.dw, p.ow);
    return CNN_OK;
}

CNN__COLD static cnn_status cnn__infer_layer(const char *where, const cnn_layer *l, cnn_layer_info *i,
                                             cnn__view *vh, cnn__view *vw) {
    const size_t features = cnn__elements(1, i->in_c, i->in_h, i->in_w);
    i->c = i->in_c;
    i->h = i->in_h;
    i->w = i->in_w;
    switch (l->kind) {
    case CNN_CONV2D:
        CNN__TRY(cnn__infer_conv(where, l, i, vh, vw));
        break;
    case CNN_MAXPOOL2D:
    case CNN_AVGPOOL2D:
    case CNN_GLOBALAVGPOOL2D:
        CNN__TRY(cnn__infer_pool(where, l, i, vh, vw));
        break;
    case CNN_LINEAR:
    case CNN_FLATTEN:
        i->c = l->kind == CNN_LINEAR ? l->out : (int)features;
        i->h = 1;
        i->w = 1;
        if (l->kind == CNN_LINEAR) {
            if (cnn__mul(features, (size_t)l->out) > INT_MAX)
                return cnn__fail(CNN_ERR_SHAPE, "%s: %zu features to %d are too many weights", where,
                                 features, l->out);
            i->weights = features * (size_t)l->out;
            i->macs = i->weights;
            cnn__view_all(vh);
            cnn__view_all(vw);
        }
        break;
    default:
        break;
    }
    i->biases = (cnn__kinds[l->kind].fields & CNN__HAS_BIAS) && !l->no_bias ? (size_t)l->out : 0;
    if (cnn__elements(CNN__LANES, i->c, i->h, i->w) == 0 ||
        cnn__elements(CNN__LANES, i->c, i->h, i->w) > INT_MAX)
        return cnn__fail(CNN_ERR_SHAPE, "%s: the output %dx%dx%d is too large", where, i->c, i->h, i->w);
    i->receptive_h = vh->size;
    i->receptive_w = vw->size;
    i->bytes = ((uint64_t)cnn__elements(1, i->c, i->h, i->w) + i->weights + i->biases) * sizeof(float);
    return CNN_OK;
}

/* One layer after another. info may be NULL. */
CNN__COLD static cnn_status cnn__infer(const cnn_layer *layers, int count, int c, int h, int w,
                                       cnn_layer_info *info, size_t *parameters) {
    cnn__view vh = {1, 1, (uint64_t)h}, vw = {1, 1, (uint64_t)w};
    cnn_layer_info i;
    size_t total = 0;
    for (int n = 0; n < count; n++) {
        char where[64];
        if ((int)layers[n].kind < CNN_CONV2D || (int)layers[n].kind > CNN_FLATTEN)
            return cnn__fail(CNN_ERR_ARGUMENT, "layer %d: kind %d is unknown", n, (int)layers[n].kind);
        memset(&i, 0, sizeof i);
        i.name = cnn__kinds[layers[n].kind].name;
        i.in_c = c;
        i.in_h = h;
        i.in_w = w;
        cnn__layer_name(where, sizeof where, n, i.name);
        CNN__TRY(cnn__check_fields(where, &layers[n]));
        CNN__TRY(cnn__infer_layer(where, &layers[n], &i, &vh, &vw));
        c = i.c;
        h = i.h;
        w = i.w;
        total = cnn__add(total, i.weights + i.biases);
        if (info)
            info[n] = i;
    }
    if (total > SIZE_MAX / sizeof(float) / 2)
        return cnn__fail(CNN_ERR_SHAPE, "the network's parameters overflow the address space");
    *parameters = total;
    return CNN_OK;
}

CNN__COLD static cnn_status cnn__check_table(const char *where, const cnn_layer *layers, int count, int c,
                                             int h, int w) {
    CNN__TRY(cnn__check_pointer(where, "layers", layers));
    if (count < 1 || count > 100000)
        return cnn__fail(CNN_ERR_ARGUMENT, "%s: count is %d, a network has 1 to 100000 layers", where, count);
    CNN__TRY(cnn__check_sizes(where, "the input", 1, c, h, w));
    if (cnn__elements(CNN__LANES, c, h, w) == 0 || cnn__elements(CNN__LANES, c, h, w) > INT_MAX)
        return cnn__fail(CNN_ERR_SHAPE, "%s: the input %dx%dx%d is too large", where, c, h, w);
    return CNN_OK;
}

CNN_API cnn_status cnn_layers_infer(const cnn_layer *layers, int count, int c, int h, int w,
                                    cnn_layer_info *info) {
    size_t parameters = 0;
    CNN__TRY(cnn__check_table("cnn_layers_infer", layers, count, c, h, w));
    CNN__TRY(cnn__check_pointer("cnn_layers_infer", "info", info));
    CNN__TRY(cnn__infer(layers, count, c, h, w, NULL, &parameters)); /* info untouched on an error */
    return cnn__infer(layers, count, c, h, w, info, &parameters);
}

/* ---- >>network ---------------------------------------------------------------------------------------- */

struct cnn_net {
    int count, c, h, w;
    cnn_layer *layers;
    cnn_layer_info *info;
    size_t *offset; /* of each layer's weight among the parameters; its bias follows */
    float *parameters;
    size_t parameter_count;
    void *owned, *owned_parameters; /* NULL: the caller's memory */
};

/* Carves a network out of the arena, its parameters too if they go within; with base NULL it only counts. */
static cnn_net *cnn__net_carve(cnn__arena *arena, int count, size_t parameters, int within) {
    cnn_net *net = (cnn_net *)cnn__take(arena, 1, sizeof(cnn_net));
    void *layers = cnn__take(arena, (size_t)count, sizeof(cnn_layer));
    void *info = cnn__take(arena, (size_t)count, sizeof(cnn_layer_info));
    void *offset = cnn__take(arena, (size_t)count, sizeof(size_t));
    float *values = within ? cnn__take_floats(arena, cnn__add(parameters, CNN__LANES)) : NULL;
    if (!arena->base)
        return NULL;
    memset(net, 0, sizeof *net);
    net->count = count;
    net->layers = (cnn_layer *)layers;
    net->info = (cnn_layer_info *)info;
    net->offset = (size_t *)offset;
    net->parameters = values;
    net->parameter_count = parameters;
    return net;
}

/* Where the layers' parameters lie, in order and without gaps. On the CPU the linear layer with most weights
   begins on a cache line, since a single example's takes them straight from there: CNN__LANES floats of memory
   are left for that. */
static void cnn__net_place(cnn_net *net) {
    size_t at = 0, most = 0, skip = 0;
    for (int i = 0; i < net->count; i++) {
        const cnn_layer_info *info = &net->info[i];
        if (net->layers[i].kind == CNN_LINEAR && info->weights > most) {
            most = info->weights;
            skip = (CNN__LANES - at % CNN__LANES) % CNN__LANES;
        }
        net->offset[i] = at;
        at += info->weights + info->biases;
    }
    if (cnn__ops() == cnn__cpu())
        net->parameters += skip;
}

static cnn_status cnn__net_make(const char *where, cnn_net **net, const cnn_layer *layers, int count, int c,
                                int h, int w, void *memory, size_t bytes, int own, size_t *needed) {
    size_t parameters = 0;
    cnn__arena arena = {NULL, 0};
    CNN__TRY(cnn__check_table(where, layers, count, c, h, w));
    CNN__TRY(cnn__infer(layers, count, c, h, w, NULL, &parameters));
    cnn__net_carve(&arena, count, parameters, !own);
    if (needed) {
        *needed = cnn__add(arena.used, CNN__ALIGN - 1);
        return CNN_OK;
    }
    void *owned = own ? cnn__alloc(arena.used) : NULL;
    const size_t room = cnn__mul(cnn__add(parameters, CNN__LANES), sizeof(float));
    void *values = owned ? cnn__ops()->allocate(room) : NULL;
    if (own && !values) {
        cnn__free(owned);
        return cnn__no_memory(where, cnn__add(arena.used, room));
    }
    char *base = own ? (char *)owned : cnn__align_within(memory, bytes, arena.used);
    if (!base)
        return cnn__fail(CNN_ERR_NOMEM, "%s: the memory handed in has %zu bytes, cnn_net_bytes asks for %zu",
                         where, bytes, arena.used + CNN__ALIGN - 1);
    arena.base = base;
    arena.used = 0;
    cnn_net *made = cnn__net_carve(&arena, count, parameters, !own);
    if (own)
        made->parameters = (float *)values;
    made->owned_parameters = values;
    made->c = c;
    made->h = h;
    made->w = w;
    made->owned = owned;
    memcpy(made->layers, layers, (size_t)count * sizeof *layers);
    cnn__infer(layers, count, c, h, w, made->info, &parameters);
    cnn__net_place(made);
    memset(made->parameters, 0, parameters * sizeof(float));
    *net = made;
    return CNN_OK;
}

CNN_API cnn_status cnn_net_create(cnn_net **net, const cnn_layer *layers, int count, int c, int h, int w) {
    CNN__TRY(cnn__check_pointer("cnn_net_create", "net", net));
    *net = NULL;
    return cnn__net_make("cnn_net_create", net, layers, count, c, h, w, NULL, 0, 1, NULL);
}

CNN_API cnn_status cnn_net_bytes(const cnn_layer *layers, int count, int c, int h, int w, size_t *bytes) {
    CNN__TRY(cnn__check_pointer("cnn_net_bytes", "bytes", bytes));
    return cnn__net_make("cnn_net_bytes", NULL, layers, count, c, h, w, NULL, 0, 0, bytes);
}

CNN_API cnn_status cnn_net_create_in(cnn_net **net, const cnn_layer *layers, int count, int c, int h, int w,
                                     void *memory, size_t bytes) {
    CNN__TRY(cnn__check_pointer("cnn_net_create_in", "net", net));
    *net = NULL;
    CNN__TRY(cnn__check_pointer("cnn_net_create_in", "memory", memory));
    return cnn__net_make("cnn_net_create_in", net, layers, count, c, h, w, memory, bytes, 0, NULL);
}

CNN_API void cnn_net_free(cnn_net *net) {
    if (!net)
        return;
    cnn__free(net->owned_parameters);
    cnn__free(net->owned);
}

/* n values from the distribution of half-width or deviation `scale`. */
CNN__BOTH static float cnn__drawn(int normal, float scale, uint64_t seed, uint64_t i) {
    return scale * (normal ? cnn__normal(seed, i) : 2.0f * cnn__uniform(seed, i) - 1.0f);
}

static cnn_status cnn__cpu_draw(const char *where, float *to, size_t n, int normal, float scale,
                                uint64_t seed) {
    (void)where;
    for (size_t i = 0; i < n; i++)
        to[i] = cnn__drawn(normal, scale, seed, i);
    return CNN_OK;
}

CNN_API cnn_status cnn_net_init(cnn_net *net, cnn_init init, uint64_t seed) {
    CNN__TRY(cnn__check_pointer("cnn_net_init", "net", net));
    if ((int)init < 0 || (int)init > (int)CNN_PYTORCH_DEFAULT)
        return cnn__fail(CNN_ERR_ARGUMENT, "cnn_net_init: initialiser %d is unknown", (int)init);
    for (int i = 0; i < net->count; i++) {
        const cnn_layer_info *info = &net->info[i];
        if (!info->weights)
            continue;
        const size_t out = (size_t)net->layers[i].out;
        const double fan_in = (double)(info->weights / out);
        const double area = net->layers[i].kind == CNN_CONV2D
                                ? (double)cnn__or(net->layers[i].kernel_h, net->layers[i].kernel) *
                                      cnn__or(net->layers[i].kernel_w, net->layers[i].kernel)
                                : 1.0;
        const double fan_out = (double)out * area;
        const double scales[] = {sqrt(6 / (fan_in + fan_out)), sqrt(2 / (fan_in + fan_out)), sqrt(6 / fan_in),
                                 sqrt(2 / fan_in), sqrt(1 / fan_in)};
        const int normal = init == CNN_XAVIER_NORMAL || init == CNN_KAIMING_NORMAL;
        float *weight = net->parameters + net->offset[i];
        CNN__TRY(cnn__ops()->draw("cnn_net_init", weight, info->weights, normal, (float)scales[init],
                                  cnn__random(seed, 2 * (uint64_t)i)));
        if (info->biases)
            CNN__TRY(cnn__ops()->draw("cnn_net_init", weight + info->weights, info->biases, 0,
                                      (float)scales[CNN_PYTORCH_DEFAULT],
                                      cnn__random(seed, 2 * (uint64_t)i + 1)));
    }
    return CNN_OK;
}

CNN_API cnn_status cnn_net_init_constant(cnn_net *net, float weight, float bias) {
    CNN__TRY(cnn__check_pointer("cnn_net_init_constant", "net", net));
    for (int i = 0; i < net->count; i++) {
        static const char *const where = "cnn_net_init_constant";
        const cnn_layer_info *info = &net->info[i];
        float *p = net->parameters + net->offset[i];
        if (info->weights)
            CNN__TRY(cnn__ops()->fill(where, p, info->weights, weight));
        if (info->biases)
            CNN__TRY(cnn__ops()->fill(where, p + info->weights, info->biases, bias));
    }
    return CNN_OK;
}

CNN_API float *cnn_net_parameters(cnn_net *net) {
    return net ? net->parameters : NULL;
}

CNN_API size_t cnn_net_parameter_count(const cnn_net *net) {
    return net ? net->parameter_count : 0;
}

CNN_API int cnn_net_layer_count(const cnn_net *net) {
    return net ? net->count : 0;
}

CNN_API const cnn_layer *cnn_net_layer(const cnn_net *net, int layer) {
    return net && layer >= 0 && layer < net->count ? &net->layers[layer] : NULL;
}

CNN_API const cnn_layer_info *cnn_net_layer_info(const cnn_net *net, int layer) {
    return net && layer >= 0 && layer < net->count ? &net->info[layer] : NULL;
}

CNN_API cnn_status cnn_net_layer_parameters(const cnn_net *net, int layer, cnn_tensor *weight,
                                            cnn_tensor *bias) {
    CNN__TRY(cnn__check_pointer("cnn_net_layer_parameters", "net", net));
    if (layer < 0 || layer >= net->count)
        return cnn__fail(CNN_ERR_ARGUMENT, "cnn_net_layer_parameters: layer %d of %d", layer, net->count);
    const cnn_layer *l = &net->layers[layer];
    const cnn_layer_info *info = &net->info[layer];
    cnn_tensor w = {0, 0, 0, 0, NULL}, b = {0, 0, 0, 0, NULL};
    if (info->weights) {
        w.n = l->out;
        w.h = l->kind == CNN_CONV2D ? cnn__or(l->kernel_h, l->kernel) : 1;
        w.w = l->kind == CNN_CONV2D ? cnn__or(l->kernel_w, l->kernel) : 1;
        w.c = (int)(info->weights / ((size_t)w.n * (size_t)w.h * (size_t)w.w));
        w.data = net->parameters + net->offset[layer];
    }
    if (info->biases) {
        b.n = b.h = b.w = 1;
        b.c = l->out;
        b.data = net->parameters + net->offset[layer] + info->weights;
    }
    if (weight)
        *weight = w;
    if (bias)
        *bias = b;
    return CNN_OK;
}

/* ---- >>workspace --------------------------------------------------------------------------------------

   A pass over a batch has two phases. A: blocks of CNN__LANES examples, in parallel, each forward and, in
   training, backward to the first layer with parameters. B, in training: the gradients, in parallel over
   parameters. Between them, a convolution's gradient is summed per SLOT (a fixed range of blocks, taken in
   order by one thread) and a linear layer keeps its inputs and output gradients as rows, one a sample, for
   one product over the batch. Slots and sums depend on the batch alone, not on the threads: hence the same
   bits for any number of them. */

typedef struct cnn__plan {  /* of one layer */
    size_t in, out;         /* elements of one example */
    size_t act;             /* the output's place among a block's activations, in floats */
    int alias;              /* the output takes the input's place */
    cnn__conv conv, single; /* of a block, and of one example */
    cnn__pool pool;
    int *tap, *back, *single_back; /* linear */
    float *panels, *back_panels;   /* the weights as the kernels want them, packed anew in each pass */
    float *single_panels;          /* those of single examples with outputs as lanes */
    float *u, *back_u;             /* a block by Winograd: the weights transformed; for dx. Or NULL */
    int *cells;                    /* its taps */
    int dw_cells;                  /* whether dw goes by Winograd, too */
    size_t slot;                   /* the gradient's place in a slot, in floats */
    float *x_rows, *dy_rows;
    int x_pitch, dy_pitch;
    int activation, pooling; /* of a convolution: the layers that go with it strip by strip, 0 for none */
    int strip;               /* rows of its output in a strip */
    int lanes;               /* whether the backward pass may go by strips too */
} cnn__plan;

/* A piece of phase B: columns first to first + count of a linear layer's weight gradient, or its biases'
   (count 0), or such elements of a convolution's slots. */
typedef struct cnn__piece {
    int layer;
    size_t first, count;
    double work; /* for one example */
} cnn__piece;

/* Columns of a linear layer's gradient in a piece: so few that their inputs, for a whole batch, stay in the
   first-level cache while all outputs pass by. */
enum { CNN__PIECE_COLUMNS = 48, CNN__PIECE_SUM = 8192 };

struct cnn_workspace {
    const cnn__table *ops;
    void *device; /* what the device keeps of it; NULL on the CPU */
    cnn_mode mode;
    int batch, threads, blocks, units, slots, pieces;
    int layer_count;
    size_t parameter_count;
    cnn__plan *plan;
    size_t act_floats;  /* of a block */
    size_t grad_floats; /* of each of a thread's two gradient buffers */
    size_t pack_floats; /* of a thread's packed image */
    size_t strip_floats,
        lane_floats; /* of a thread's strip of gradients, and of its weight gradients by lanes */
    size_t slot_floats;
    float *activations; /* a block each, or a thread each */
    float *gradient_buffers, *packed, *slot, *strips, *lanes;
    cnn__piece *piece;
    int *sample; /* [layers][batch]: phase B's taps */
    float *gradients;
    double *unit_loss;
    int *unit_correct;
    uint64_t seed, pass; /* dropout: a new mask each training pass */
    int examples;        /* of the last forward pass */
    void *owned;
};

/* The examples of a batch in UNITS: whole blocks, then those left over one by one, or, where they are more
   than CNN__SINGLES, in a last block that is not full. */
CNN__OUTLINE static int cnn__blocks(int examples) {
    return examples / CNN__LANES + (examples % CNN__LANES > CNN__SINGLES);
}

CNN__OUTLINE static int cnn__units(int examples) {
    const int rest = examples - cnn__blocks(examples) * CNN__LANES;
    return cnn__blocks(examples) + (rest > 0 ? rest : 0);
}

/* Places the layers' outputs among a block's activations. An element-wise layer works in place unless the
   backward pass still reads what it would overwrite. Without a backward pass three places in turn do: an
   image, its convolution, and what the pool makes of that strip by strip. */
CNN__COLD static void cnn__plan_activations(cnn_workspace *ws, const cnn_net *net, cnn__plan *plan) {
    size_t input = cnn__elements(1, net->c, net->h, net->w) * CNN__LANES, largest = input, at = 0,
           used = input;
    int locked = 0, side = 0;
    for (int i = 0; i < net->count; i++) {
        const cnn_layer_info *info = &net->info[i];
        const cnn__kind *kind = &cnn__kinds[net->layers[i].kind];
        const size_t size = cnn__elements(CNN__LANES, info->c, info->h, info->w);
        largest = size > largest ? size : largest;
        cnn__plan *p = plan ? &plan[i] : NULL;
        const int flatten = net->layers[i].kind == CNN_FLATTEN;
        const int alias = kind->in_place && (flatten || !locked || ws->mode == CNN_INFERENCE);
        locked = kind->reads_y || (alias && locked);
        if (!alias) {
            side = (side + 1) % 3;
            at = used;
            used += size;
        }
        if (p) {
            p->in = cnn__elements(1, info->in_c, info->in_h, info->in_w);
            p->out = size / CNN__LANES;
            p->alias = alias;
            p->act = ws->mode == CNN_INFERENCE ? (size_t)side : at; /* a side becomes a place below */
        }
    }
    ws->act_floats = ws->mode == CNN_INFERENCE ? 3 * largest : used;
    ws->grad_floats = ws->mode == CNN_INFERENCE ? 0 : largest;
    for (int i = 0; plan && ws->mode == CNN_INFERENCE && i < net->count; i++)
        plan[i].act *= largest;
}

/* Which layers go with the convolution at `layer` strip by strip, so that its output is still in the first-
   level cache when the next layer wants it: an activation in place, then a pool of whole windows side by
   side. Going backward, only a convolution that needs no dx (the first) and has few weights. */
CNN__COLD static void cnn__plan_strips(const cnn_workspace *ws, const cnn_net *net, int layer,
                                       cnn__plan *plan) {
    cnn__plan *p = &plan[layer];
    int next = layer + 1;
    p->strip = 1;
    p->activation = p->pooling = p->lanes = 0;
    if (p->conv.groups != 1 || p->conv.lines != p->conv.oh)
        return;
    if (next < net->count && plan[next].alias && cnn__is_activation(net->layers[next].kind))
        p->activation = next++;
    if (next < net->count && plan[next].pool.tiled && plan[next].pool.kh <= CNN__STRIP_ROWS) {
        p->pooling = next;
        p->strip = plan[next].pool.kh;
    }
    p->lanes = ws->mode != CNN_INFERENCE && (p->activation || p->pooling) &&
               p->conv.o * p->conv.steps <= CNN__STRIP_WEIGHTS;
    if (p->u) /* whole rows of tiles, too */
        p->strip = p->strip == 3 ? 12 : 4;
}

/* Memory for a block's Winograd, where it goes by that; the scratch memory of a thread, in floats. */
CNN__COLD static size_t cnn__carve_cells(cnn__plan *p, int training, cnn__arena *arena) {
    const cnn__conv *v = &p->conv;
    const int forward = cnn__conv_cells(v, CNN__Y), back = training && cnn__conv_cells(v, CNN__DX);
    const int most = cnn__max(v->c, v->o);
    p->u = p->back_u = NULL;
    p->cells = NULL;
    p->dw_cells = training && cnn__conv_cells(v, CNN__DW);
    const size_t dw = p->dw_cells ? cnn__cells_dw_floats(v) : 0;
    if (!forward && !back)
        return dw;
    if (forward)
        p->u = cnn__take_floats(arena, 36 * cnn__cells_u_pitch(v));
    if (back)
        p->back_u = cnn__take_floats(arena, 36 * cnn__cells_u_pitch(v));
    p->cells = (int *)cnn__take(arena, (size_t)most, sizeof(int));
    for (int k = 0; arena->base && k < most; k++)
        p->cells[k] = k * cnn__cells_run(v) * CNN__LANES;
    return dw > cnn__cells_floats(v) ? dw : cnn__cells_floats(v);
}

/* Lays out everything behind the struct; with base NULL it only counts. */
CNN__COLD static void cnn__workspace_carve(cnn_workspace *ws, const cnn_net *net, cnn__arena *arena) {
    const int training = ws->mode != CNN_INFERENCE;
    const size_t threads = (size_t)ws->threads, batch16 = (size_t)ws->blocks * CNN__LANES;
    const size_t arenas = ws->mode == CNN_TRAINING ? (size_t)ws->blocks : threads;
    size_t slot_floats = 0, pieces = 0;
    cnn__plan *plans = (cnn__plan *)cnn__take(arena, (size_t)net->count, sizeof(cnn__plan));
    cnn__plan scratch;
    if (arena->base)
        memset(plans, 0, (size_t)net->count * sizeof *plans);
    cnn__plan_activations(ws, net, arena->base ? plans : NULL);
    ws->pack_floats = 0;
    for (int i = 0; i < net->count; i++) {
        const cnn_layer *l = &net->layers[i];
        const cnn_layer_info *info = &net->info[i];
        cnn__plan *p = arena->base ? &plans[i] : &scratch;
        if (l->kind == CNN_CONV2D) {
            cnn__layer_conv_setup("", l, info->in_c, info->in_h, info->in_w, CNN__LANES, &p->conv);
            cnn__layer_conv_setup("", l, info->in_c, info->in_h, info->in_w, 1, &p->single);
            if (!training)
                cnn__conv_share_zeros(&p->single);
            cnn__conv_taps(&p->conv, arena);
            cnn__conv_taps(&p->single, arena);
            p->panels = cnn__take_floats(arena, info->weights);
            p->single_panels = cnn__take_floats(
                arena, cnn__outputs_as_lanes(&p->single) ? cnn__lanes_weights(&p->single) : 0);
            if (training) {
                cnn__conv_back_taps(&p->conv, arena);
                cnn__conv_back_taps(&p->single, arena);
                p->back_panels = cnn__take_floats(arena, info->weights);
            }
            const size_t cells = cnn__carve_cells(p, training, arena);
            const size_t packed = p->conv.direct ? 0 : (size_t)p->conv.c * (size_t)p->conv.plane;
            const size_t single = cnn__add(cnn__lanes_packed(&p->single), cnn__single_floats(&p->single));
            ws->pack_floats = packed > ws->pack_floats ? packed : ws->pack_floats;
            ws->pack_floats = single > ws->pack_floats ? single : ws->pack_floats;
            ws->pack_floats = cells > ws->pack_floats ? cells : ws->pack_floats;
            p->slot = slot_floats;
            slot_floats += info->weights + info->biases;
            pieces += (info->weights + info->biases + CNN__PIECE_SUM - 1) / CNN__PIECE_SUM;
        } else if (l->kind == CNN_LINEAR) {
            const int in = (int)(info->weights / (size_t)l->out);
            p->tap = (int *)cnn__take(arena, (size_t)in, sizeof(int));
            p->back = (int *)cnn__take(arena, (size_t)l->out, sizeof(int));
            for (int k = 0; arena->base && k < in; k++)
                p->tap[k] = k * CNN__LANES;
            p->single_back = (int *)cnn__take(arena, (size_t)l->out, sizeof(int));
            for (int o = 0; arena->base && o < l->out; o++) {
                p->back[o] = o * CNN__LANES;
                p->single_back[o] = o * in;
            }
            p->panels = cnn__take_floats(arena, info->weights);
            if (training) {
                p->x_pitch = (int)cnn__round_up((size_t)in, CNN__LANES);
                p->dy_pitch = (int)cnn__round_up((size_t)l->out, CNN__LANES);
                p->x_rows = cnn__take_floats(arena, cnn__mul(batch16, (size_t)p->x_pitch));
                p->dy_rows = cnn__take_floats(arena, cnn__mul(batch16, (size_t)p->dy_pitch));
            }
            pieces += ((size_t)in + CNN__PIECE_COLUMNS - 1) / CNN__PIECE_COLUMNS + (info->biases != 0);
        } else if (l->kind == CNN_MAXPOOL2D || l->kind == CNN_AVGPOOL2D || l->kind == CNN_GLOBALAVGPOOL2D) {
            cnn__layer_pool_setup("", l, info->in_h, info->in_w, &p->pool);
        }
    }
    ws->strip_floats = ws->lane_floats = 0;
    for (int i = 0; training && i < net->count; i++) /* the first convolution, if any, may go by strips */
        if (net->layers[i].kind == CNN_CONV2D && !ws->strip_floats) {
            cnn__conv v;
            const cnn_layer_info *info = &net->info[i];
            cnn__layer_conv_setup("", &net->layers[i], info->in_c, info->in_h, info->in_w, CNN__LANES, &v);
            ws->strip_floats = CNN__STRIP_CHANNELS * (size_t)v.y_pitch * 2 * CNN__STRIP_ROWS;
            ws->lane_floats = CNN__STRIP_WEIGHTS * CNN__LANES;
        }
    ws->strips = cnn__take_floats(arena, cnn__mul(threads, ws->strip_floats));
    ws->lanes = cnn__take_floats(arena, cnn__mul(threads, ws->lane_floats));
    for (int i = 0; arena->base && i < net->count; i++)
        if (net->layers[i].kind == CNN_CONV2D)
            cnn__plan_strips(ws, net, i, plans);
    ws->plan = plans;
    ws->slot_floats = cnn__round_up(slot_floats, CNN__LANES);
    ws->activations = cnn__take_floats(arena, cnn__mul(arenas, ws->act_floats));
    ws->gradient_buffers = cnn__take_floats(arena, cnn__mul(2 * threads, ws->grad_floats));
    ws->packed = cnn__take_floats(arena, cnn__mul(threads, ws->pack_floats));
    ws->unit_loss = (double *)cnn__take(arena, (size_t)ws->units, sizeof(double));
    ws->unit_correct = (int *)cnn__take(arena, (size_t)ws->units, sizeof(int));
    if (!training)
        return;
    const double slots = 4 + CNN__SLOT_BYTES / (4.0 * (double)(slot_floats + 1));
    ws->slots = slots < (double)ws->units ? (int)slots : ws->units;
    ws->slot = cnn__take_floats(arena, cnn__mul((size_t)ws->slots, ws->slot_floats));
    ws->pieces = (int)pieces;
    ws->piece = (cnn__piece *)cnn__take(arena, pieces, sizeof(cnn__piece));
    ws->sample = (int *)cnn__take(arena, cnn__mul((size_t)net->count, batch16), sizeof(int));
    ws->gradients = cnn__take_floats(arena, net->parameter_count ? net->parameter_count : 1);
}

static int cnn__more_work(const void *a, const void *b) {
    const double x = ((const cnn__piece *)a)->work, y = ((const cnn__piece *)b)->work;
    return x < y ? 1 : x > y ? -1 : 0;
}

CNN__COLD static void cnn__workspace_pieces(cnn_workspace *ws, const cnn_net *net) {
    cnn__piece *piece = ws->piece;
    for (int i = 0; i < net->count; i++) {
        const cnn_layer_info *info = &net->info[i];
        const int linear = net->layers[i].kind == CNN_LINEAR;
        const size_t all = linear ? ws->plan[i].in : info->weights + info->biases;
        const size_t step = linear ? CNN__PIECE_COLUMNS : CNN__PIECE_SUM;
        for (size_t at = 0; info->weights && at < all; at += step, piece++) {
            piece->layer = i;
            piece->first = at;
            piece->count = all - at < step ? all - at : step;
            piece->work = (double)piece->count * (linear ? net->layers[i].out : 1);
        }
        if (linear && info->biases)
            (piece++)->layer = i;
        int *sample = ws->sample + (size_t)i * (size_t)ws->blocks * CNN__LANES;
        for (int s = 0; linear && s < ws->blocks * CNN__LANES; s++)
            sample[s] = s * ws->plan[i].x_pitch;
    }
    qsort(ws->piece, (size_t)ws->pieces, sizeof *ws->piece, cnn__more_work);
}

CNN__COLD static cnn_status cnn__workspace_check(const char *where, const cnn_net *net, cnn_mode mode,
                                                 int batch, int threads) {
    CNN__TRY(cnn__check_pointer(where, "net", net));
    if ((int)mode < 0 || (int)mode > (int)CNN_TRAINING_STEP)
        return cnn__fail(CNN_ERR_ARGUMENT, "%s: mode %d is unknown", where, (int)mode);
    if (batch < 1 || threads < 0)
        return cnn__fail(CNN_ERR_ARGUMENT, "%s: batch %d must be at least 1, threads %d at least 0", where,
                         batch, threads);
    return CNN_OK;
}

static cnn_status cnn__cpu_workspace_make(const char *where, cnn_workspace **to, const cnn_net *net,
                                          cnn_mode mode, int batch, int threads, void *memory, size_t bytes,
                                          int own, size_t *needed) {
    CNN__TRY(cnn__workspace_check(where, net, mode, batch, threads));
    cnn_workspace plan;
    memset(&plan, 0, sizeof plan);
    plan.ops = cnn__cpu();
    plan.mode = mode;
    plan.batch = batch;
    plan.blocks = (int)(((int64_t)batch + CNN__LANES - 1) / CNN__LANES);
    plan.units = plan.blocks + CNN__SINGLES; /* of any batch up to this */
    plan.threads = cnn__min(threads ? threads : cnn_max_threads(), cnn__min(batch, plan.units));
    plan.layer_count = net->count;
    plan.parameter_count = net->parameter_count;
    cnn__arena arena = {NULL, 0};
    cnn__take(&arena, 1, sizeof(cnn_workspace));
    cnn__workspace_carve(&plan, net, &arena);
    for (int i = 0; i < net->count; i++) /* phase B's taps are ints */
        if (net->layers[i].kind == CNN_LINEAR && mode != CNN_INFERENCE &&
            (double)plan.blocks * CNN__LANES *
                    ((double)net->layers[i].out +
                     (double)(net->info[i].weights / (size_t)net->layers[i].out) + 32) >
                (double)INT_MAX)
            return cnn__fail(CNN_ERR_SHAPE, "%s: a batch of %d is too large for layer %d (linear)", where,
                             batch, i);
    if (arena.used > SIZE_MAX - CNN__ALIGN)
        return cnn__fail(CNN_ERR_SHAPE, "%s: a batch of %d overflows the address space", where, batch);
    if (needed) {
        *needed = arena.used + CNN__ALIGN - 1;
        return CNN_OK;
    }
    const size_t need = arena.used;
    void *owned = own ? cnn__alloc(need) : NULL;
    if (own && !owned)
        return cnn__no_memory(where, need);
    arena.base = own ? (char *)owned : cnn__align_within(memory, bytes, need);
    if (!arena.base)
        return cnn__fail(CNN_ERR_NOMEM,
                         "%s: the memory handed in has %zu bytes, cnn_workspace_bytes asks for %zu", where,
                         bytes, need + CNN__ALIGN - 1);
    if (!own)
        memset(arena.base, 0, need);
    arena.used = 0;
    cnn_workspace *ws = (cnn_workspace *)cnn__take(&arena, 1, sizeof(cnn_workspace));
    *ws = plan;
    cnn__workspace_carve(ws, net, &arena);
    if (mode != CNN_INFERENCE)
        cnn__workspace_pieces(ws, net);
    ws->owned = owned;
    *to = ws;
    return CNN_OK;
}

CNN_API cnn_status cnn_workspace_create(cnn_workspace **ws, const cnn_net *net, cnn_mode mode, int batch,
                                        int threads) {
    CNN__TRY(cnn__check_pointer("cnn_workspace_create", "ws", ws));
    *ws = NULL;
    return cnn__ops()->workspace_make("cnn_workspace_create", ws, net, mode, batch, threads, NULL, 0, 1,
                                      NULL);
}

CNN_API cnn_status cnn_workspace_bytes(const cnn_net *net, cnn_mode mode, int batch, int threads,
                                       size_t *bytes) {
    CNN__TRY(cnn__check_pointer("cnn_workspace_bytes", "bytes", bytes));
    return cnn__ops()->workspace_make("cnn_workspace_bytes", NULL, net, mode, batch, threads, NULL, 0, 0,
                                      bytes);
}

CNN_API cnn_status cnn_workspace_create_in(cnn_workspace **ws, const cnn_net *net, cnn_mode mode, int batch,
                                           int threads, void *memory, size_t bytes) {
    CNN__TRY(cnn__check_pointer("cnn_workspace_create_in", "ws", ws));
    *ws = NULL;
    CNN__TRY(cnn__check_pointer("cnn_workspace_create_in", "memory", memory));
    return cnn__ops()->workspace_make("cnn_workspace_create_in", ws, net, mode, batch, threads, memory, bytes,
                                      0, NULL);
}

static void cnn__cpu_workspace_free(cnn_workspace *ws) {
    cnn__free(ws->owned);
}

CNN_API void cnn_workspace_free(cnn_workspace *ws) {
    if (ws)
        ws->ops->workspace_free(ws);
}

CNN_API float *cnn_workspace_gradients(cnn_workspace *ws) {
    return ws ? ws->gradients : NULL;
}

CNN_API void cnn_workspace_seed(cnn_workspace *ws, uint64_t seed) {
    if (!ws)
        return;
    ws->seed = seed;
    ws->pass = 0;
}

/* ---- one block through the layers ---- */

/* Of CNN__LANES rows 8 bytes, from `at` on: their columns, one after the other. */
#if CNN__X86
CNN__INLINE void cnn__byte_columns(const unsigned char *const *row, size_t at, unsigned char *to) {
    __m128i a[16], b[8];
    CNN__UNROLL
    for (int s = 0; s < 16; s++)
        a[s] = _mm_loadl_epi64((const __m128i *)(const void *)(row[s] + at));
    CNN__UNROLL
    for (int s = 0; s < 8; s++) /* two rows, all columns */
        b[s] = _mm_unpacklo_epi8(a[2 * s], a[2 * s + 1]);
    CNN__UNROLL
    for (int s = 0; s < 4; s++) { /* four rows, columns 0 to 3; and 4 to 7 */
        a[s] = _mm_unpacklo_epi16(b[2 * s], b[2 * s + 1]);
        a[4 + s] = _mm_unpackhi_epi16(b[2 * s], b[2 * s + 1]);
    }
    CNN__UNROLL
    for (int s = 0; s < 4; s++) { /* eight rows, columns 0, 1; 4, 5; and 2, 3; 6, 7 */
        b[s] = _mm_unpacklo_epi32(a[2 * s], a[2 * s + 1]);
        b[4 + s] = _mm_unpackhi_epi32(a[2 * s], a[2 * s + 1]);
    }
    CNN__UNROLL
    for (int s = 0; s < 4; s++) {
        __m128i *column = (__m128i *)(void *)(to + (s % 2 * 4 + s / 2 * 2) * CNN__LANES);
        _mm_storeu_si128(column, _mm_unpacklo_epi64(b[2 * s], b[2 * s + 1]));
        _mm_storeu_si128(column + 1, _mm_unpackhi_epi64(b[2 * s], b[2 * s + 1]));
    }
}
#else
/* Low byte first on every machine; compilers make one load or store of each. */
CNN__INLINE uint64_t cnn__load_u64(const unsigned char *p) {
    return (uint64_t)p[0] | (uint64_t)p[1] << 8 | (uint64_t)p[2] << 16 | (uint64_t)p[3] << 24 |
           (uint64_t)p[4] << 32 | (uint64_t)p[5] << 40 | (uint64_t)p[6] << 48 | (uint64_t)p[7] << 56;
}

CNN__INLINE void cnn__store_u64(unsigned char *p, uint64_t v) {
    p[0] = (unsigned char)v;
    p[1] = (unsigned char)(v >> 8);
    p[2] = (unsigned char)(v >> 16);
    p[3] = (unsigned char)(v >> 24);
    p[4] = (unsigned char)(v >> 32);
    p[5] = (unsigned char)(v >> 40);
    p[6] = (unsigned char)(v >> 48);
    p[7] = (unsigned char)(v >> 56);
}

/* 8 rows of 8 bytes to 8 columns, each at to[0], to[CNN__LANES], ...: bytes, pairs and fours change places
   across the diagonal of the matrix of ever larger squares. */
CNN__INLINE void cnn__transpose_bytes8(const uint64_t *rows, unsigned char *to) {
    static const uint64_t masks[] = {0x00ff00ff00ff00ffu, 0x0000ffff0000ffffu, 0x00000000ffffffffu};
    uint64_t a[8];
    CNN__UNROLL
    for (int i = 0; i < 8; i++)
        a[i] = rows[i];
    CNN__UNROLL
    for (int stage = 0; stage < 3; stage++) {
        CNN__UNROLL
        for (int i = 0; i < 4; i++) { /* the pairs of rows that differ in bit `stage` of their number */
            const int low = i >> stage << (stage + 1) | (i & ((1 << stage) - 1)), high = low | 1 << stage;
            const uint64_t t = ((a[low] >> (8 << stage)) ^ a[high]) & masks[stage];
            a[low] ^= t << (8 << stage);
            a[high] ^= t;
        }
    }
    CNN__UNROLL
    for (int i = 0; i < 8; i++)
        cnn__store_u64(to + i * CNN__LANES, a[i]);
}

CNN__INLINE void cnn__byte_columns(const unsigned char *const *row, size_t at, unsigned char *to) {
    for (int half = 0; half < CNN__LANES; half += 8) {
        uint64_t a[8];
        CNN__UNROLL
        for (int s = 0; s < 8; s++)
            a[s] = cnn__load_u64(row[half + s] + at);
        cnn__transpose_bytes8(a, to + half);
    }
}
#endif

CNN__LOOPS static void cnn__block_from_bytes(const cnn__kernels *k, const unsigned char *const *row, size_t f,
                                             int cell, int count, float *block) {
    unsigned char bytes[8 * CNN__LANES];
    size_t i = 0;
    memset(bytes, 0, sizeof bytes);
    if (cell == 1) {
        const size_t whole = f / CNN__LANES * CNN__LANES;
        float rest[CNN__LANES];
        k->from_bytes(row[0], block, whole);
        memcpy(bytes, row[0] + whole, f - whole);
        k->from_bytes(bytes, rest, CNN__LANES);
        memcpy(block + whole, rest, (f - whole) * sizeof(float));
        return;
    }
    for (; count == CNN__LANES && i + 8 <= f; i += 8) {
        cnn__byte_columns(row, i, bytes);
        k->from_bytes(bytes, block + i * CNN__LANES, sizeof bytes);
    }
    for (; i < f; i++) {
        for (int s = 0; s < count; s++)
            bytes[s] = row[s][i];
        k->from_bytes(bytes, block + i * CNN__LANES, CNN__LANES);
    }
}

/* A pass: what every task of it knows. */
typedef struct cnn__pass {
    const cnn_net *net;
    cnn_workspace *ws;
    const cnn__kernels *k;
    int n, training, threads;
    int back; /* whether a backward pass follows */
    uint64_t seed;
    const cnn_tensor *x, *dy; /* planar input, or */
    const cnn_dataset *data;  /* examples index[0..n-1] of a data set */
    const int *index;
    cnn_tensor *y, *dx;
    int *classes;
    cnn__start start; /* phase B: gradients from zero, or accumulated */

    /* A task's own copy: its unit. */
    int unit, cell, first,
        count; /* cell: CNN__LANES or 1; its examples, of which there may be fewer than cell */
} cnn__pass;

static cnn__pass cnn__pass_unit(const void *context, int unit) {
    cnn__pass e = *(const cnn__pass *)context;
    const int blocks = cnn__blocks(e.n), single = unit >= blocks;
    e.unit = unit;
    e.cell = single ? 1 : CNN__LANES;
    e.first = single ? blocks * CNN__LANES + unit - blocks : unit * CNN__LANES;
    e.count = e.n - e.first < e.cell ? e.n - e.first : e.cell;
    return e;
}

static const cnn__conv *cnn__unit_conv(const cnn__pass *e, int layer) {
    return e->cell == 1 ? &e->ws->plan[layer].single : &e->ws->plan[layer].conv;
}

static uint64_t cnn__dropout_seed(const cnn__pass *e, int layer) {
    return cnn__random(e->seed, (uint64_t)layer);
}

/* Elements of a block are numbered as in the planar batch: sample*features + feature. */
static void cnn__block_dropout(const cnn__pass *e, int layer, const float *x, float *y) {
    const size_t f = e->ws->plan[layer].out;
    const uint64_t seed = cnn__dropout_seed(e, layer);
    const float set = e->net->layers[layer].p, p = set > 0 ? set : 0.5f;
    for (size_t i = 0; i < f; i++)
        for (size_t s = 0; s < (size_t)e->cell; s++) {
            const uint64_t element = ((uint64_t)e->first + s) * f + i;
            const size_t at = i * (size_t)e->cell + s;
            y[at] = x[at] * cnn__dropout_scale(p, seed, element);
        }
}

static const float *cnn__layer_bias(const cnn__pass *e, int layer) {
    const cnn_layer_info *info = &e->net->info[layer];
    return info->biases ? e->net->parameters + e->net->offset[layer] + info->weights : NULL;
}

/* The layers' weights in panels: a layer in so many parts, the i-th of which takes panels i, i + parts and so
   on. Layers follow one another, so that each thread gets some of every one. */
static int cnn__prepare_parts(const cnn__pass *e) {
    return e->threads > 1 ? 4 : 1;
}

static void cnn__prepare_conv(const cnn__pass *e, const cnn__plan *p, const float *weight, int part) {
    const int parts = cnn__prepare_parts(e);
    const cnn__conv *v = &p->conv;
    const int lanes = cnn__outputs_as_lanes(&p->single), blocks = cnn__blocks(e->n);
    const int singles = cnn__units(e->n) > blocks, winograd = blocks && e->k->wino_input;
    for (int g = 0; g < v->groups; g++) {
        const size_t at = (size_t)g * (size_t)v->o * (size_t)v->steps;
        if ((blocks && !(winograd && p->u)) || (singles && !lanes))
            cnn__panels(e->k, weight + at, (size_t)v->steps, 1, v->o, v->steps, part, parts, p->panels + at);
        if (part == g % parts && e->back && (singles || !(winograd && p->back_u)))
            cnn__conv_back_panels(v, e->k, weight + at, p->back_panels + at);
    }
    if (winograd && p->u)
        cnn__cells_weights(e->k, v, weight, 0, part, parts, p->u);
    if (winograd && p->back_u && e->back)
        cnn__cells_weights(e->k, v, weight, 1, part, parts, p->back_u);
    const int panels = lanes && singles ? v->groups * cnn__ceil_div(v->o, CNN__LANES) : 0;
    for (int i = part; i < panels; i += parts)
        cnn__lanes_panel(&p->single, weight, 0, i, p->single_panels);
}

static void cnn__prepare_task(void *context, int task, int thread) {
    const cnn__pass *e = (const cnn__pass *)context;
    const int layer = task % e->net->count, part = task / e->net->count;
    const cnn__plan *p = &e->ws->plan[layer];
    const float *weight = e->net->parameters + e->net->offset[layer];
    (void)thread;
    if (e->net->layers[layer].kind == CNN_LINEAR && cnn__blocks(e->n))
        cnn__panels(e->k, weight, p->in, 1, (int)p->out, (int)p->in, part, cnn__prepare_parts(e), p->panels);
    else if (e->net->layers[layer].kind == CNN_CONV2D)
        cnn__prepare_conv(e, p, weight, part);
}

static void cnn__prepare(const cnn__pass *e) {
    cnn__parallel(e->threads, e->net->count * cnn__prepare_parts(e), cnn__prepare_task, (void *)(uintptr_t)e);
}

/* Whether a unit's convolution goes by Winograd, forward or dx, and how. */
static int cnn__unit_cells(const cnn__pass *e, int layer, int back, float *scratch, cnn__cells *a) {
    const cnn__plan *p = &e->ws->plan[layer];
    const cnn__conv *v = &p->conv;
    if (e->cell == 1 || !e->k->wino_input || !(back ? p->back_u : p->u))
        return 0;
    a->k = e->k;
    a->cell = e->cell;
    a->steps = back ? v->o : v->c;
    a->rows = back ? v->c : v->o;
    a->h = back ? v->oh : v->h;
    a->w = back ? v->ow : v->w;
    a->oh = back ? v->h : v->oh;
    a->ow = back ? v->w : v->ow;
    a->pt = back ? 2 - v->pt : v->pt;
    a->pl = back ? 2 - v->pl : v->pl;
    a->run = cnn__cells_run(v);
    a->tap = p->cells;
    a->u = back ? p->back_u : p->u;
    a->u_pitch = cnn__cells_u_pitch(v);
    a->bias = back ? NULL : cnn__layer_bias(e, layer);
    a->scratch = scratch;
    return 1;
}

/* Lines i0 to i1 - 1 of a convolution's output, all channels of group g; y its first line. */
static void cnn__unit_conv_forward(const cnn__pass *e, int layer, int g, const float *image, float *packed,
                                   int i0, int i1, float *y) {
    const cnn__conv *v = cnn__unit_conv(e, layer);
    const cnn__plan *p = &e->ws->plan[layer];
    const float *panels = p->panels + (size_t)g * (size_t)v->o * (size_t)v->steps;
    const float *bias = cnn__layer_bias(e, layer);
    bias = bias ? bias + (size_t)g * (size_t)v->o : NULL;
    if (v->cell > 1 || v->lines == 1) {
        cnn__conv_forward(v, e->k, image, panels, bias, i0, i1, y);
        return;
    }
    float *scratch = packed + cnn__lanes_packed(v);
    image += (size_t)i0 * (size_t)v->x_pitch;
    y += (size_t)i0 * (size_t)v->y_pitch;
    if (cnn__outputs_as_lanes(v)) {
        panels = p->single_panels + (size_t)g * cnn__lanes_weights(v) / (size_t)v->groups;
        cnn__conv_lanes(v, e->k, image, panels, bias, NULL, v->o, i1 - i0, scratch, y);
    } else {
        cnn__single_line(v, e->k, image, panels, bias, NULL, i1 - i0, scratch, y);
    }
}

static void cnn__block_conv(const cnn__pass *e, int layer, const float *x, float *y, float *packed) {
    const cnn__conv *v = cnn__unit_conv(e, layer);
    cnn__cells cells;
    if (cnn__unit_cells(e, layer, 0, packed, &cells)) {
        cnn__cells_forward(&cells, x, 0, v->oh, y);
        return;
    }
    for (int g = 0; g < v->groups; g++) {
        const float *image = x + (size_t)g * (size_t)v->c * (size_t)v->h * (size_t)v->w * (size_t)v->cell;
        if (!v->direct) {
            cnn__pack(v, image, 0, v->c, 0, packed);
            image = packed;
        }
        cnn__unit_conv_forward(e, layer, g, image, packed, 0, v->lines,
                               y + (size_t)g * (size_t)v->o * (size_t)v->y_plane);
    }
}

static void cnn__block_linear(const cnn__pass *e, int layer, const float *x, float *y) {
    const cnn__plan *p = &e->ws->plan[layer];
    cnn__product a;
    if (e->cell == 1) {
        e->k->matrix_vector(e->net->parameters + e->net->offset[layer], x, cnn__layer_bias(e, layer), y,
                            (int)p->out, (int)p->in);
        return;
    }
    memset(&a, 0, sizeof a);
    a.rows = (int)p->out;
    a.steps = (int)p->in;
    a.n = CNN__LANES;
    a.tap = p->tap;
    a.x = x;
    a.w = p->panels;
    a.panel = (ptrdiff_t)p->in;
    a.bias = cnn__layer_bias(e, layer);
    a.start = a.bias ? CNN__BIAS : CNN__ZERO;
    a.y = y;
    a.ym = CNN__LANES;
    cnn__product_run(e->k, &a);
}

/* The activations of a block: the input, then the layers' outputs. */
static float *cnn__block_acts(const cnn__pass *e, int thread) {
    const size_t example = e->ws->act_floats / CNN__LANES;
    return e->ws->activations +
           (e->ws->mode == CNN_TRAINING ? (size_t)e->first * example : (size_t)thread * e->ws->act_floats);
}

/* Where a layer's output begins. */
static float *cnn__layer_act(const cnn__pass *e, int layer, float *acts) {
    return acts + e->ws->plan[layer].act / CNN__LANES * (size_t)e->cell;
}

static float *cnn__layer_input(const cnn__pass *e, int layer, float *acts) {
    return layer ? cnn__layer_act(e, layer - 1, acts) : acts;
}

/* The pool of `rows` rows of its input, which are whole windows. */
static cnn__pool cnn__strip_pool(const cnn__pool *pool, int rows) {
    cnn__pool p = *pool;
    p.h = rows;
    p.oh = rows / p.kh;
    p.covers = p.ow * p.kw == p.w && p.oh * p.kh == rows;
    return p;
}

/* Rows of a strip: of one example as many floats as of a block. */
static int cnn__strip_rows(const cnn__pass *e, int layer) {
    return e->ws->plan[layer].strip * (CNN__LANES / e->cell);
}

/* Rows of the convolution at `layer`, channel m, and what its pool makes of them. */
static size_t cnn__strip_at(const cnn__conv *v, int m, int row) {
    return (size_t)m * (size_t)v->y_plane + (size_t)row * (size_t)v->y_pitch;
}

static size_t cnn__pooled_at(const cnn__pool *p, int m, int row, int cell) {
    return ((size_t)m * (size_t)p->oh + (size_t)(row / p->kh)) * (size_t)p->ow * (size_t)cell;
}

/* The padded input of a convolution without groups. */
static const float *cnn__block_packed(const cnn__conv *v, const float *x, float *packed) {
    if (v->direct)
        return x;
    cnn__pack(v, x, 0, v->c, 0, packed);
    return packed;
}

/* Those of a single example at once, from the packed image to y, the last layer's output: what the convolution
   itself gives is not kept. Returns 0, with nothing done, where they do not go together so. */
static int cnn__single_strips(const cnn__pass *e, int layer, const float *x, float *packed, float *y) {
    const cnn__plan *p = &e->ws->plan[layer];
    const cnn__conv *v = cnn__unit_conv(e, layer);
    const cnn__follow follow = {p->activation ? cnn__activation(e->k, e->net->layers[p->activation].kind)
                                              : NULL,
                                p->pooling ? &e->ws->plan[p->pooling].pool : NULL};
    const float *bias = cnn__layer_bias(e, layer);
    float *scratch = packed + cnn__lanes_packed(v);
    if (cnn__lanes_follow(v))
        cnn__conv_lanes(v, e->k, x, p->single_panels, bias, &follow, v->o, v->oh, scratch, y);
    else if (p->pooling && cnn__line_follows(v))
        cnn__single_line(v, e->k, x, p->panels, bias, &follow, v->oh, scratch, y);
    else
        return 0;
    return 1;
}

/* A convolution and the layers that go with it, strip by strip. */
static void cnn__block_conv_strips(const cnn__pass *e, int layer, const float *x, float *acts,
                                   float *packed) {
    const cnn__plan *p = &e->ws->plan[layer];
    const cnn__conv *v = cnn__unit_conv(e, layer);
    const cnn__pool *pool = &e->ws->plan[p->pooling].pool;
    const cnn__unary_kernel activation = cnn__activation(e->k, e->net->layers[p->activation].kind);
    float *y = cnn__layer_act(e, layer, acts), *pooled = cnn__layer_act(e, p->pooling, acts);
    cnn__cells cells;
    const int winograd = cnn__unit_cells(e, layer, 0, packed, &cells);
    if (!winograd)
        x = cnn__block_packed(v, x, packed);
    if (e->ws->mode == CNN_INFERENCE && cnn__single_strips(e, layer, x, packed, p->pooling ? pooled : y))
        return;
    const int strip = cnn__strip_rows(e, layer);
    for (int row = 0; row < v->oh; row += strip) {
        const int rows = cnn__min(strip, v->oh - row);
        const int pools = p->pooling && row / pool->kh < pool->oh;
        const cnn__pool part = pools ? cnn__strip_pool(pool, rows) : *pool;
        if (winograd)
            cnn__cells_forward(&cells, x, row, row + rows, y);
        else
            cnn__unit_conv_forward(e, layer, 0, x, packed, row, row + rows, y);
        for (int m = 0; m < v->o; m++) {
            float *at = y + cnn__strip_at(v, m, row);
            if (p->activation)
                activation(at, at, (size_t)rows * (size_t)v->y_pitch);
            if (pools)
                cnn__pool_blocks(&part, at, pooled + cnn__pooled_at(pool, m, row, e->cell), 1, e->cell);
        }
    }
}

static void cnn__forward_layer(const cnn__pass *e, int layer, const float *x, float *y, float *packed) {
    const cnn__plan *p = &e->ws->plan[layer];
    const size_t n = p->out * (size_t)e->cell;
    switch (e->net->layers[layer].kind) {
    case CNN_CONV2D:
        cnn__block_conv(e, layer, x, y, packed);
        break;
    case CNN_MAXPOOL2D:
    case CNN_AVGPOOL2D:
    case CNN_GLOBALAVGPOOL2D:
        cnn__pool_blocks(&p->pool, x, y, e->net->info[layer].c, e->cell);
        break;
    case CNN_LINEAR:
        cnn__block_linear(e, layer, x, y);
        break;
    case CNN_SIGMOID:
        e->k->sigmoid(x, y, n);
        break;
    case CNN_TANH:
        e->k->tanh(x, y, n);
        break;
    case CNN_RELU:
        e->k->relu(x, y, n);
        break;
    case CNN_SOFTMAX:
        e->k->softmax(x, y, NULL, NULL, e->net->info[layer].c, n / (size_t)e->net->info[layer].c, 1);
        break;
    case CNN_DROPOUT:
        if (e->training)
            cnn__block_dropout(e, layer, x, y);
        else if (x != y)
            memcpy(y, x, n * sizeof(float));
        break;
    case CNN_FLATTEN: /* in place */
    default:
        break;
    }
}

static void cnn__load_block(const cnn__pass *e, float *to) {
    const size_t f = cnn__elements(1, e->net->c, e->net->h, e->net->w);
    const float *floats[CNN__LANES];
    const unsigned char *bytes[CNN__LANES];
    for (int s = 0; s < e->count; s++) {
        const size_t i = (size_t)(e->index ? e->index[e->first + s] : e->first + s);
        floats[s] = e->data ? (e->data->floats ? e->data->floats + i * f : NULL) : e->x->data + i * f;
        bytes[s] = e->data && e->data->bytes ? e->data->bytes + i * f : NULL;
    }
    if (e->data && e->data->bytes)
        cnn__block_from_bytes(e->k, bytes, f, e->cell, e->count, to);
    else
        cnn__block_from_rows(floats, f, e->cell, e->count, to);
}

/* Input and forward pass of a unit; returns its outputs. */
static float *cnn__block_forward(const cnn__pass *e, int thread) {
    float *acts = cnn__block_acts(e, thread);
    float *packed = e->ws->packed + (size_t)thread * e->ws->pack_floats;
    cnn__load_block(e, acts);
    for (int i = 0; i < e->net->count; i++) {
        const cnn__plan *p = &e->ws->plan[i];
        const float *x = cnn__layer_input(e, i, acts);
        if (p->activation || p->pooling) {
            cnn__block_conv_strips(e, i, x, acts, packed);
            i = p->pooling ? p->pooling : p->activation;
        } else {
            cnn__forward_layer(e, i, x, cnn__layer_input(e, i + 1, acts), packed);
        }
    }
    return cnn__layer_input(e, e->net->count, acts);
}

/* The first layer with parameters: below it no gradient is needed, unless the caller wants dx. */
static int cnn__lowest_layer(const cnn__pass *e) {
    int i = 0;
    while (!e->dx && i < e->net->count && !e->net->info[i].weights)
        i++;
    return i;
}

/* The last layer of those that go backward by strips with the lowest, a convolution; or -1. */
static int cnn__strips_end(const cnn__pass *e, int lowest) {
    const cnn__plan *p = &e->ws->plan[lowest < e->net->count ? lowest : 0];
    return e->dx || lowest >= e->net->count || !p->lanes ? -1 : p->pooling ? p->pooling : p->activation;
}

/* dx of a group. */
static void cnn__block_dx(const cnn__conv *v, const cnn__kernels *k, const float *panels, const float *dy,
                          float *packed, float *dx) {
    float *to = v->direct ? dx : packed;
    memset(to, 0, (size_t)v->c * (size_t)v->plane * sizeof(float));
    cnn__conv_backward_x(v, k, panels, dy, to);
    if (!v->direct)
        cnn__unpack(v, k, packed, 0, v->c, 0, v->h, dx);
}

static void cnn__block_conv_backward(const cnn__pass *e, int layer, const float *x, const float *dy,
                                     float *dx, float *slot, float *packed) {
    const cnn__conv *v = cnn__unit_conv(e, layer);
    const float *panels = e->ws->plan[layer].back_panels;
    const int winograd = e->cell > 1 && e->k->wino_input && e->ws->plan[layer].dw_cells;
    float *dw = slot + e->ws->plan[layer].slot, *db = dw + e->net->info[layer].weights;
    const size_t image = (size_t)v->h * (size_t)v->w * (size_t)v->cell;
    for (int m = 0; e->net->info[layer].biases && m < v->o * v->groups; m++)
        db[m] += e->k->sum(dy + (size_t)m * (size_t)v->y_plane, (size_t)v->y_plane);
    for (int g = 0; g < v->groups; g++) {
        const size_t weights = (size_t)g * (size_t)v->o * (size_t)v->steps;
        const float *dy_g = dy + (size_t)g * (size_t)v->o * (size_t)v->y_plane;
        const float *x_g = x + (size_t)g * (size_t)v->c * image;
        float *dx_g = dx ? dx + (size_t)g * (size_t)v->c * image : NULL;
        if (!winograd && !v->direct) {
            cnn__pack(v, x_g, 0, v->c, 0, packed);
            x_g = packed;
        }
        if (winograd)
            cnn__cells_dw(e->k, v, x_g, dy_g, packed, dw);
        else
            cnn__conv_backward_w(v, e->k, x_g, dy_g, dw + weights);
        cnn__cells cells;
        if (dx && cnn__unit_cells(e, layer, 1, packed, &cells))
            cnn__cells_forward(&cells, dy, 0, v->h, dx);
        else if (dx)
            cnn__block_dx(v, e->k, panels + weights, dy_g, packed, dx_g);
    }
}

static void cnn__block_linear_backward(const cnn__pass *e, int layer, const float *x, const float *dy,
                                       float *dx) {
    const cnn__plan *p = &e->ws->plan[layer];
    const float *weight = e->net->parameters + e->net->offset[layer];
    const size_t first = (size_t)e->first;
    cnn__rows_from_block(x, p->in, e->cell, e->cell, p->x_rows + first * (size_t)p->x_pitch,
                         (size_t)p->x_pitch);
    cnn__rows_from_block(dy, p->out, e->cell, e->cell, p->dy_rows + first * (size_t)p->dy_pitch,
                         (size_t)p->dy_pitch);
    if (!dx)
        return;
    cnn__product a;
    memset(&a, 0, sizeof a);
    a.steps = (int)p->out;
    a.panel = 1;
    a.y = dx;
    a.start = CNN__ZERO;
    if (e->cell == 1) { /* one row: dy times the matrix */
        a.rows = 1;
        a.n = p->in;
        a.tap = p->single_back;
        a.x = weight;
        a.w = dy;
        a.wk = 1;
        a.ym = (ptrdiff_t)p->in;
    } else {
        a.rows = (int)p->in;
        a.n = CNN__LANES;
        a.tap = p->back;
        a.x = dy;
        a.w = weight;
        a.wk = (ptrdiff_t)p->in;
        a.ym = CNN__LANES;
    }
    cnn__product_run(e->k, &a);
}

/* dx of one layer, or NULL where nobody needs it, and its parameter gradients. Element-wise layers work in
   place: dx is dy. */
static void cnn__backward_layer(const cnn__pass *e, int layer, const float *x, const float *y, float *dy,
                                float *dx, float *slot, float *packed) {
    const cnn__plan *p = &e->ws->plan[layer];
    const int c = e->net->info[layer].c;
    const size_t n = p->out * (size_t)e->cell;
    switch (e->net->layers[layer].kind) {
    case CNN_CONV2D:
        cnn__block_conv_backward(e, layer, x, dy, dx, slot, packed);
        break;
    case CNN_MAXPOOL2D:
        cnn__pool_kernels(&p->pool, e->cell)->maxpool_backward(&p->pool, x, y, dy, dx, c, e->cell);
        break;
    case CNN_AVGPOOL2D:
    case CNN_GLOBALAVGPOOL2D:
        cnn__pool_kernels(&p->pool, e->cell)->avgpool_backward(&p->pool, dy, dx, c, e->cell);
        break;
    case CNN_LINEAR:
        cnn__block_linear_backward(e, layer, x, dy, dx);
        break;
    case CNN_SIGMOID:
        e->k->sigmoid_backward(y, dy, dy, n);
        break;
    case CNN_TANH:
        e->k->tanh_backward(y, dy, dy, n);
        break;
    case CNN_RELU:
        e->k->relu_backward(y, dy, dy, n);
        break;
    case CNN_SOFTMAX:
        e->k->softmax_backward(y, dy, dy, c, n / (size_t)c, 1);
        break;
    case CNN_DROPOUT:
        if (e->training)
            cnn__block_dropout(e, layer, dy, dy);
        break;
    case CNN_FLATTEN:
    default:
        break;
    }
}

/* Whether a pool takes its gradient together with that of an activation before it. */
static int cnn__pooled_together(const cnn__pass *e, const cnn__pool *p) {
    return !p->max && p->tiled && p->kh == 2 && p->kw == 2 && p->covers && e->cell == CNN__LANES;
}

/* The gradient of rows of the convolution's own output, channel m, from dy, that of the last layer that goes
   with it. */

static void cnn__strip_gradient(const cnn__pass *e, int layer, float *acts, int m, int row, int rows,
                                const float *dy, float *to) {
    const cnn__plan *p = &e->ws->plan[layer];
    const cnn__conv *v = cnn__unit_conv(e, layer);
    const cnn__pool *pool = &e->ws->plan[p->pooling].pool;
    const float *y = cnn__layer_act(e, layer, acts) + cnn__strip_at(v, m, row);
    const size_t n = (size_t)rows * (size_t)v->y_pitch;
    const float *from = dy + cnn__strip_at(v, m, row);
    if (p->pooling) {
        const cnn__pool part = cnn__strip_pool(pool, rows);
        const size_t at = cnn__pooled_at(pool, m, row, e->cell);
        if (p->activation && cnn__pooled_together(e, &part)) {
            e->k->pooled_backward(&part, e->net->layers[p->activation].kind, y, dy + at, to, 1);
            return;
        }
        if (row / pool->kh >= pool->oh)
            memset(to, 0, n * sizeof(float));
        else if (pool->max)
            cnn__pool_kernels(pool, e->cell)
                ->maxpool_backward(&part, y, cnn__layer_act(e, p->pooling, acts) + at, dy + at, to, 1,
                                   e->cell);
        else
            cnn__pool_kernels(pool, e->cell)->avgpool_backward(&part, dy + at, to, 1, e->cell);
        from = to;
    }
    if (p->activation)
        cnn__activation_backward(e->k, e->net->layers[p->activation].kind)(y, from, to, n);
}

/* The parameter gradients of the first convolution, together with the layers that go with it, strip by strip:
   some channels at a time: the gradient of its output never leaves the first-level cache. dw is kept by lanes
   until the slot ends. */
static void cnn__block_conv_strips_backward(const cnn__pass *e, int layer, const float *x, float *acts,
                                            const float *dy, float *slot, float *packed, int thread) {
    const cnn__plan *p = &e->ws->plan[layer];
    const cnn__conv *v = cnn__unit_conv(e, layer);
    const int rows = 2 * cnn__strip_rows(e, layer), group = v->o % 3 ? CNN__STRIP_CHANNELS : 3;
    const size_t strip_plane = (size_t)rows * (size_t)v->y_pitch;
    float *strip = e->ws->strips + (size_t)thread * e->ws->strip_floats;
    float *lanes = e->ws->lanes + (size_t)thread * e->ws->lane_floats;
    float *db = slot + p->slot + e->net->info[layer].weights;
    cnn__dot a;
    memset(&a, 0, sizeof a);
    x = cnn__block_packed(v, x, packed);
    a.steps = v->steps;
    a.n = v->run;
    a.tap = v->tap;
    a.y = strip;
    a.xr = v->x_pitch;
    a.yr = v->y_pitch;
    a.ym = (ptrdiff_t)strip_plane;
    for (int row = 0; row < v->oh; row += rows) {
        a.lines = cnn__min(rows, v->oh - row);
        a.x = x + (size_t)row * (size_t)v->x_pitch;
        for (int first = 0; first < v->o; first += group) {
            a.rows = cnn__min(group, v->o - first);
            for (int m = 0; m < a.rows; m++) {
                float *at = strip + (size_t)m * strip_plane;
                cnn__strip_gradient(e, layer, acts, first + m, row, a.lines, dy, at);
                if (e->net->info[layer].biases)
                    db[first + m] += e->k->sum(at, (size_t)a.lines * (size_t)v->y_pitch);
            }
            a.lanes = lanes + (size_t)first * (size_t)v->steps * (size_t)e->k->lanes;
            e->k->dot(&a);
        }
    }
}

/* From the outputs' gradient, which lies in the first of the thread's two gradient buffers. */
static void cnn__block_backward(const cnn__pass *e, int thread, float *slot) {
    cnn_workspace *ws = e->ws;
    float *acts = cnn__block_acts(e, thread);
    float *packed = ws->packed + (size_t)thread * ws->pack_floats;
    float *dy = ws->gradient_buffers + 2 * (size_t)thread * ws->grad_floats, *other = dy + ws->grad_floats;
    const int lowest = cnn__lowest_layer(e);
    const int strips = cnn__strips_end(e, lowest);
    const cnn_layer *layers = e->net->layers;
    for (int i = e->net->count - 1; i >= lowest; i--) {
        const int last = i == lowest && !e->dx;
        const float *x = cnn__layer_input(e, i, acts);
        if (i == strips) {
            cnn__block_conv_strips_backward(e, lowest, cnn__layer_input(e, lowest, acts), acts, dy, slot,
                                            packed, thread);
            return;
        }
        const int together = i > lowest && layers[i].kind == CNN_AVGPOOL2D &&
                             cnn__is_activation(layers[i - 1].kind) &&
                             cnn__pooled_together(e, &ws->plan[i].pool);
        if (together) {
            e->k->pooled_backward(&ws->plan[i].pool, layers[i - 1].kind, x, dy, other, e->net->info[i].c);
            i--;
        } else
            cnn__backward_layer(e, i, x, cnn__layer_input(e, i + 1, acts), dy, last ? NULL : other, slot,
                                packed);
        if (together || (!cnn__kinds[layers[i].kind].in_place && !last)) {
            float *t = dy;
            dy = other;
            other = t;
        }
    }
    if (e->dx) {
        const size_t f = cnn__elements(1, e->net->c, e->net->h, e->net->w);
        cnn__rows_from_block(dy, f, e->cell, e->count, e->dx->data + (size_t)e->first * f, f);
    }
}

/* ---- phase B ---- */

static void cnn__piece_linear(const cnn__pass *e, const cnn__piece *piece) {
    const cnn__plan *p = &e->ws->plan[piece->layer];
    cnn__product a;
    memset(&a, 0, sizeof a);
    a.rows = (int)p->out;
    a.steps = e->n;
    a.n = piece->count;
    a.tap = e->ws->sample + (size_t)piece->layer * (size_t)e->ws->blocks * CNN__LANES;
    a.x = p->x_rows + piece->first;
    a.w = p->dy_rows;
    a.panel = 1;
    a.wk = p->dy_pitch;
    a.slack = 1;
    a.y = e->ws->gradients + e->net->offset[piece->layer] + piece->first;
    a.ym = (ptrdiff_t)p->in;
    a.start = e->start;
    cnn__product_run(e->k, &a);
}

static void cnn__piece_biases(const cnn__pass *e, const cnn__piece *piece) {
    const cnn__plan *p = &e->ws->plan[piece->layer];
    float *db = e->ws->gradients + e->net->offset[piece->layer] + e->net->info[piece->layer].weights;
    if (e->start == CNN__ZERO)
        memset(db, 0, p->out * sizeof(float));
    for (int s = 0; s < e->n; s++)
        e->k->add(db, p->dy_rows + (size_t)s * (size_t)p->dy_pitch, p->out);
}

static void cnn__piece_slots(const cnn__pass *e, const cnn__piece *piece) {
    const cnn_workspace *ws = e->ws;
    float *g = ws->gradients + e->net->offset[piece->layer] + piece->first;
    const float *from = ws->slot + ws->plan[piece->layer].slot + piece->first;
    if (e->start == CNN__ZERO)
        memset(g, 0, piece->count * sizeof(float));
    const int slots = cnn__min(ws->slots, cnn__units(e->n));
    for (int s = 0; s < slots; s++)
        e->k->add(g, from + (size_t)s * ws->slot_floats, piece->count);
}

/* The pieces are dealt out to the threads, those of the most work first. */
static void cnn__piece_task(void *context, int task, int thread) {
    const cnn__pass *e = (const cnn__pass *)context;
    (void)thread;
    for (int i = task; i < e->ws->pieces; i += e->threads) {
        const cnn__piece *piece = &e->ws->piece[i];
        if (e->net->layers[piece->layer].kind == CNN_LINEAR && piece->count)
            cnn__piece_linear(e, piece);
        else if (e->net->layers[piece->layer].kind == CNN_LINEAR)
            cnn__piece_biases(e, piece);
        else
            cnn__piece_slots(e, piece);
    }
}

/* ---- passes ---- */

/* Threads for a pass of n examples: one, where the others would spare it less than it costs to pass the
   weights and their gradients from core to core, about 24 multiply-accumulates each, or to start them. */
static int cnn__pass_threads(const cnn_net *net, const cnn_workspace *ws, int n) {
    const int units = cnn__units(n), blocks = cnn__blocks(n);
    double macs = 0;
    int most = 0;
    for (int i = 0; i < net->count; i++)
        macs += (double)net->info[i].macs;
    for (int t = 0; t < ws->threads; t++) {
        const int first = (int)((int64_t)units * t / ws->threads);
        const int end = (int)((int64_t)units * (t + 1) / ws->threads);
        most = cnn__max(most, cnn__min(end, blocks) * CNN__LANES + cnn__max(end - blocks, 0) -
                                  cnn__min(first, blocks) * CNN__LANES - cnn__max(first - blocks, 0));
    }
    const double spared = ((double)n - most) * macs;
    if (ws->mode == CNN_INFERENCE)
        return spared < CNN__SMALL_WORK ? 1 : ws->threads;
    return 3 * spared < 24 * (double)net->parameter_count ? 1 : ws->threads;
}

static void cnn__pass_begin(cnn__pass *e, const cnn_net *net, cnn_workspace *ws, int n) {
    memset(e, 0, sizeof *e);
    e->net = net;
    e->ws = ws;
    e->k = cnn__k();
    e->n = n;
    e->training = ws->mode != CNN_INFERENCE;
    e->threads = cnn__pass_threads(net, ws, n);
    e->seed = cnn__random(ws->seed, ws->pass);
}

/* Slot s takes units first to end - 1 of the batch. */
static void cnn__slot_range(const cnn__pass *e, int s, int *first, int *end) {
    const int units = cnn__units(e->n), slots = cnn__min(e->ws->slots, units);
    *first = (int)((int64_t)units * s / slots);
    *end = (int)((int64_t)units * (s + 1) / slots);
}

static float *cnn__slot_begin(const cnn__pass *e, int s, int thread) {
    float *slot = e->ws->slot + (size_t)s * e->ws->slot_floats;
    memset(slot, 0, e->ws->slot_floats * sizeof(float));
    if (e->ws->lanes)
        memset(e->ws->lanes + (size_t)thread * e->ws->lane_floats, 0, e->ws->lane_floats * sizeof(float));
    return slot;
}

static void cnn__slot_end(const cnn__pass *e, float *slot, int thread) {
    const int lowest = cnn__lowest_layer(e);
    if (cnn__strips_end(e, lowest) >= 0)
        e->k->fold(e->ws->lanes + (size_t)thread * e->ws->lane_floats, slot + e->ws->plan[lowest].slot,
                   e->net->info[lowest].weights);
}

CNN__COLD static cnn_status cnn__check_workspace(const char *where, const cnn_net *net,
                                                 const cnn_workspace *ws, int n) {
    CNN__TRY(cnn__check_pointer(where, "net", net));
    CNN__TRY(cnn__check_pointer(where, "ws", ws));
    if (ws->layer_count != net->count || ws->parameter_count != net->parameter_count)
        return cnn__fail(CNN_ERR_ARGUMENT, "%s: the workspace was made for another network", where);
    if (n < 1 || n > ws->batch)
        return cnn__fail(CNN_ERR_SHAPE, "%s: a batch of %d, the workspace is for 1 to %d", where, n,
                         ws->batch);
    return CNN_OK;
}

CNN__COLD static cnn_status cnn__check_input(const char *where, const char *name, const cnn_net *net,
                                             const cnn_tensor *x) {
    CNN__TRY(cnn__check(where, name, x));
    return cnn__check_shape(where, name, x, x->n, net->c, net->h, net->w);
}

static size_t cnn__outputs(const cnn_net *net) {
    const cnn_layer_info *last = &net->info[net->count - 1];
    return cnn__elements(1, last->c, last->h, last->w);
}

CNN__COLD static cnn_status cnn__check_output(const char *where, const char *name, const cnn_net *net,
                                              const cnn_tensor *y, int n) {
    const cnn_layer_info *last = &net->info[net->count - 1];
    CNN__TRY(cnn__check(where, name, y));
    if (y->n != n || cnn__size(y) / (size_t)y->n != cnn__outputs(net))
        return cnn__fail(CNN_ERR_SHAPE, "%s: %s is %dx%dx%dx%d, it must be %d samples of %dx%dx%d", where,
                         name, y->n, y->c, y->h, y->w, n, last->c, last->h, last->w);
    return CNN_OK;
}

static void cnn__forward_task(void *context, int unit, int thread) {
    const cnn__pass e = cnn__pass_unit(context, unit);
    const float *out = cnn__block_forward(&e, thread);
    const size_t f = cnn__outputs(e.net), cell = (size_t)e.cell;
    if (e.y)
        cnn__rows_from_block(out, f, e.cell, e.count, e.y->data + (size_t)e.first * f, f);
    for (int s = 0; e.classes && s < e.count; s++) {
        size_t best = 0;
        for (size_t k = 1; k < f; k++)
            best = out[k * cell + (size_t)s] > out[best * cell + (size_t)s] ? k : best;
        e.classes[e.first + s] = (int)best;
    }
}

CNN__COLD static cnn_status cnn__check_mode_forward(const char *where, const cnn_workspace *ws) {
    return ws->mode == CNN_TRAINING_STEP
               ? cnn__fail(CNN_ERR_ARGUMENT,
                           "%s: the workspace is for cnn_train_step alone (CNN_TRAINING_STEP)", where)
               : CNN_OK;
}

static cnn_status cnn__cpu_forward(const char *where, const cnn_net *net, cnn_workspace *ws,
                                   const cnn_tensor *x, cnn_tensor *y, int *classes) {
    cnn__pass e;
    (void)where;
    cnn__pass_begin(&e, net, ws, x->n);
    e.x = x;
    e.y = y;
    e.classes = classes;
    cnn__prepare(&e);
    cnn__parallel(e.threads, cnn__units(e.n), cnn__forward_task, &e);
    return CNN_OK;
}

CNN_API cnn_status cnn_forward(const cnn_net *net, cnn_workspace *ws, const cnn_tensor *x, cnn_tensor *y) {
    static const char *const where = "cnn_forward";
    CNN__TRY(cnn__check_pointer(where, "net", net));
    CNN__TRY(cnn__check_input(where, "x", net, x));
    CNN__TRY(cnn__check_workspace(where, net, ws, x->n));
    CNN__TRY(cnn__check_mode_forward(where, ws));
    CNN__TRY(cnn__check_output(where, "y", net, y, x->n));
    CNN__TRY(cnn__check_apart(where, "y", y, "x", x));
    ws->pass += ws->mode == CNN_TRAINING;
    ws->examples = 0;
    CNN__TRY(ws->ops->forward(where, net, ws, x, y, NULL));
    ws->examples = x->n;
    return CNN_OK;
}

CNN_API cnn_status cnn_predict(const cnn_net *net, cnn_workspace *ws, const cnn_tensor *x, int *classes) {
    static const char *const where = "cnn_predict";
    CNN__TRY(cnn__check_pointer(where, "net", net));
    CNN__TRY(cnn__check_input(where, "x", net, x));
    CNN__TRY(cnn__check_workspace(where, net, ws, x->n));
    CNN__TRY(cnn__check_pointer(where, "classes", classes));
    if (ws->mode != CNN_INFERENCE)
        return cnn__fail(CNN_ERR_ARGUMENT, "%s: the workspace must be for inference (CNN_INFERENCE)", where);
    if (cnn__overlap(classes, (size_t)x->n * sizeof(int), x->data, cnn__size(x) * sizeof(float)))
        return cnn__fail(CNN_ERR_ARGUMENT, "%s: classes overlaps x", where);
    return ws->ops->forward(where, net, ws, x, NULL, classes);
}

static void cnn__backward_task(void *context, int s, int thread) {
    const cnn__pass *e = (const cnn__pass *)context;
    const size_t f = cnn__outputs(e->net);
    float *slot = cnn__slot_begin(e, s, thread);
    int first = 0, end = 0;
    cnn__slot_range(e, s, &first, &end);
    for (int unit = first; unit < end; unit++) {
        const cnn__pass u = cnn__pass_unit(context, unit);
        const float *row[CNN__LANES];
        for (int i = 0; i < u.count; i++)
            row[i] = e->dy->data + (size_t)(u.first + i) * f;
        cnn__block_from_rows(row, f, u.cell, u.count,
                             e->ws->gradient_buffers + 2 * (size_t)thread * e->ws->grad_floats);
        cnn__block_backward(&u, thread, slot);
    }
    cnn__slot_end(e, slot, thread);
}

static cnn_status cnn__cpu_backward(const char *where, const cnn_net *net, cnn_workspace *ws,
                                    const cnn_tensor *dy, cnn_tensor *dx) {
    cnn__pass e;
    (void)where;
    cnn__pass_begin(&e, net, ws, dy->n);
    e.dy = dy;
    e.dx = dx;
    e.start = CNN__ACCUMULATE;
    e.back = 1;
    cnn__prepare(&e);
    cnn__parallel(e.threads, cnn__min(ws->slots, cnn__units(e.n)), cnn__backward_task, &e);
    cnn__parallel(e.threads, e.threads, cnn__piece_task, &e);
    return CNN_OK;
}

CNN_API cnn_status cnn_backward(const cnn_net *net, cnn_workspace *ws, const cnn_tensor *dy, cnn_tensor *dx) {
    static const char *const where = "cnn_backward";
    CNN__TRY(cnn__check_pointer(where, "net", net));
    CNN__TRY(cnn__check(where, "dy", dy));
    CNN__TRY(cnn__check_workspace(where, net, ws, dy->n));
    if (ws->mode != CNN_TRAINING)
        return cnn__fail(CNN_ERR_ARGUMENT, "%s: the workspace must be for training (CNN_TRAINING)", where);
    if (!ws->examples)
        return cnn__fail(CNN_ERR_ARGUMENT, "%s: no cnn_forward has gone before it in this workspace", where);
    if (ws->examples != dy->n)
        return cnn__fail(CNN_ERR_SHAPE, "%s: dy has %d samples, the last cnn_forward had %d", where, dy->n,
                         ws->examples);
    CNN__TRY(cnn__check_output(where, "dy", net, dy, dy->n));
    if (dx) {
        CNN__TRY(cnn__check_shape(where, "dx", dx, dy->n, net->c, net->h, net->w));
        CNN__TRY(cnn__check_apart(where, "dx", dx, "dy", dy));
    }
    return ws->ops->backward(where, net, ws, dy, dx);
}

/* ---- >>train ------------------------------------------------------------------------------------------ */

CNN__COLD static cnn_status cnn__check_sgd(const char *where, const cnn_sgd_options *o) {
    CNN__TRY(cnn__check_pointer(where, "options", o));
    if (!(o->lr > 0 && o->lr <= FLT_MAX))
        return cnn__fail(CNN_ERR_ARGUMENT, "%s: lr is %g, the learning rate must be greater than 0", where,
                         (double)o->lr);
    if (!(o->momentum >= 0 && o->momentum <= FLT_MAX) ||
        !(o->weight_decay >= 0 && o->weight_decay <= FLT_MAX))
        return cnn__fail(CNN_ERR_ARGUMENT, "%s: momentum is %g and weight_decay %g, they must be at least 0",
                         where, (double)o->momentum, (double)o->weight_decay);
    if (o->nesterov && o->momentum <= 0)
        return cnn__fail(CNN_ERR_ARGUMENT, "%s: nesterov needs a momentum greater than 0", where);
    return CNN_OK;
}

typedef struct cnn__sgd_call {
    const cnn_sgd_options *options;
    float *parameters, *velocity;
    const float *gradients;
    size_t count;
} cnn__sgd_call;

static void cnn__sgd_task(void *context, int task, int thread) {
    const cnn__sgd_call *a = (const cnn__sgd_call *)context;
    const size_t at = (size_t)task * CNN__PIECE, n = a->count - at < CNN__PIECE ? a->count - at : CNN__PIECE;
    (void)thread;
    cnn__k()->sgd(a->options, a->parameters + at, a->gradients + at, a->velocity ? a->velocity + at : NULL,
                  n);
}

static cnn_status cnn__sgd_apply(const char *where, int threads, cnn__sgd_call *a) {
    if (a->count / CNN__PIECE >= INT_MAX)
        return cnn__fail(CNN_ERR_SHAPE, "%s: %zu parameters are too many", where, a->count);
    cnn__parallel(threads, (int)((a->count + CNN__PIECE - 1) / CNN__PIECE), cnn__sgd_task, a);
    return CNN_OK;
}

static cnn_status cnn__cpu_sgd_step(const char *where, const cnn_sgd_options *options, float *parameters,
                                    const float *gradients, float *velocity, size_t count) {
    cnn__sgd_call a = {options, parameters, velocity, gradients, count};
    return cnn__sgd_apply(where, cnn__threads_for((double)count), &a);
}

CNN_API cnn_status cnn_sgd_step(const cnn_sgd_options *options, float *parameters, const float *gradients,
                                float *velocity, size_t count) {
    static const char *const where = "cnn_sgd_step";
    CNN__TRY(cnn__check_sgd(where, options));
    CNN__TRY(cnn__check_pointer(where, "parameters", parameters));
    CNN__TRY(cnn__check_pointer(where, "gradients", gradients));
    if (options->momentum > 0)
        CNN__TRY(cnn__check_pointer(where, "velocity", velocity));
    const size_t bytes = cnn__mul(count, sizeof(float));
    if (cnn__overlap(parameters, bytes, gradients, bytes) ||
        (velocity && (cnn__overlap(velocity, bytes, parameters, bytes) ||
                      cnn__overlap(velocity, bytes, gradients, bytes))))
        return cnn__fail(CNN_ERR_ARGUMENT, "%s: parameters, gradients and velocity overlap", where);
    return cnn__ops()->sgd_step(where, options, parameters, gradients, velocity, count);
}

CNN__COLD static cnn_status cnn__check_dataset(const char *where, const char *name, const cnn_net *net,
                                               const cnn_dataset *data) {
    CNN__TRY(cnn__check_pointer(where, name, data));
    if (data->count < 1 || !data->labels || !data->bytes == !data->floats)
        return cnn__fail(CNN_ERR_ARGUMENT,
                         "%s: %s must have examples (count is %d), labels, and either bytes or floats", where,
                         name, data->count);
    if (data->classes < 1 || data->classes > 256)
        return cnn__fail(CNN_ERR_ARGUMENT, "%s: %s has %d classes, it must be 1 to 256", where, name,
                         data->classes);
    if (net && (data->c != net->c || data->h != net->h || data->w != net->w))
        return cnn__fail(CNN_ERR_SHAPE, "%s: %s has examples of %dx%dx%d, the network takes %dx%dx%d", where,
                         name, data->c, data->h, data->w, net->c, net->h, net->w);
    if (net && cnn__outputs(net) != (size_t)data->classes)
        return cnn__fail(CNN_ERR_SHAPE, "%s: %s has %d classes, the network %zu outputs", where, name,
                         data->classes, cnn__outputs(net));
    return CNN_OK;
}

/* Index and label of each example of a batch; index NULL: the first n. */
CNN__COLD static cnn_status cnn__check_examples(const char *where, const cnn_dataset *data, const int *index,
                                                int n) {
    if (!index && n > data->count)
        return cnn__fail(CNN_ERR_ARGUMENT, "%s: %d examples wanted, the data set has %d", where, n,
                         data->count);
    for (int i = 0; i < n; i++) {
        const int at = index ? index[i] : i;
        if (at < 0 || at >= data->count)
            return cnn__fail(CNN_ERR_ARGUMENT, "%s: index[%d] is %d, the data set has %d examples", where, i,
                             at, data->count);
        if (data->labels[at] >= data->classes)
            return cnn__fail(CNN_ERR_FORMAT, "%s: label %d of example %d is outside the classes 0 to %d",
                             where, data->labels[at], at, data->classes - 1);
    }
    return CNN_OK;
}

/* Loss and right predictions of a block's logits; d gets the gradient of the mean loss over the batch,
   (softmax - onehot)/n. */
static void cnn__block_loss(const cnn__pass *e, const float *logits, float *d) {
    const int classes = e->data->classes, cell = e->cell;
    const float scale = 1.0f / (float)e->n;
    float max[CNN__LANES], sum[CNN__LANES];
    double loss = 0;
    int correct = 0;
    e->k->softmax(logits, d, max, sum, classes, (size_t)cell, 1);
    for (int s = 0; s < e->count; s++) {
        const int label = e->data->labels[e->index ? e->index[e->first + s] : e->first + s];
        const float own = logits[label * cell + s];
        int best = 0;
        for (int k = 1; k < classes; k++)
            best = logits[k * cell + s] > logits[best * cell + s] ? k : best;
        correct += best == label;
        loss += log((double)sum[s]) + ((double)max[s] - (double)own);
        d[label * cell + s] -= 1.0f;
        if (e->classes)
            e->classes[e->first + s] = best;
    }
    for (int i = 0; i < classes * cell; i++)
        d[i] = i % cell < e->count ? d[i] * scale : 0.0f;
    e->ws->unit_loss[e->unit] = loss;
    e->ws->unit_correct[e->unit] = correct;
}

static void cnn__train_task(void *context, int s, int thread) {
    const cnn__pass *e = (const cnn__pass *)context;
    float *slot = cnn__slot_begin(e, s, thread);
    int first = 0, end = 0;
    cnn__slot_range(e, s, &first, &end);
    for (int unit = first; unit < end; unit++) {
        const cnn__pass u = cnn__pass_unit(context, unit);
        const float *logits = cnn__block_forward(&u, thread);
        cnn__block_loss(&u, logits, e->ws->gradient_buffers + 2 * (size_t)thread * e->ws->grad_floats);
        cnn__block_backward(&u, thread, slot);
    }
    cnn__slot_end(e, slot, thread);
}

static void cnn__add_blocks(const cnn__pass *e, double *loss, int *correct) {
    double total = 0;
    int right = 0;
    for (int i = 0; i < cnn__units(e->n); i++) {
        total += e->ws->unit_loss[i];
        right += e->ws->unit_correct[i];
    }
    if (loss)
        *loss += total;
    if (correct)
        *correct += right;
}

static int cnn__finite(double value) {
    return value >= -DBL_MAX && value <= DBL_MAX;
}

/* Arguments checked. */
static cnn_status cnn__cpu_train_batch(const char *where, const cnn_net *net, cnn_workspace *ws,
                                       const cnn_dataset *data, const int *index, int n, double *loss,
                                       int *correct) {
    cnn__pass e;
    double sum = 0;
    ws->pass++;
    cnn__pass_begin(&e, net, ws, n);
    e.data = data;
    e.index = index;
    e.start = CNN__ZERO;
    e.back = 1;
    cnn__prepare(&e);
    cnn__parallel(e.threads, cnn__min(ws->slots, cnn__units(n)), cnn__train_task, &e);
    cnn__add_blocks(&e, &sum, NULL);
    if (!cnn__finite(sum))
        return cnn__fail(CNN_ERR_DIVERGED,
                         "%s: the loss is %g: the training diverged; try a smaller learning rate", where,
                         sum);
    cnn__parallel(e.threads, e.threads, cnn__piece_task, &e);
    cnn__add_blocks(&e, loss, correct);
    return CNN_OK;
}

CNN_API cnn_status cnn_train_step(const cnn_net *net, cnn_workspace *ws, const cnn_dataset *data,
                                  const int *index, int n, double *loss, int *correct) {
    static const char *const where = "cnn_train_step";
    CNN__TRY(cnn__check_workspace(where, net, ws, n));
    if (ws->mode == CNN_INFERENCE)
        return cnn__fail(CNN_ERR_ARGUMENT, "%s: the workspace is for inference", where);
    CNN__TRY(cnn__check_dataset(where, "data", net, data));
    CNN__TRY(cnn__check_examples(where, data, index, n));
    ws->examples = 0;
    return ws->ops->train_batch(where, net, ws, data, index, n, loss, correct);
}

/* A workspace of CNN_INFERENCE, and what the loss needs besides. */
typedef struct cnn__evaluator {
    cnn_workspace *ws;
    float *softmax; /* classes*CNN__LANES for each thread */
    int *classes;   /* predictions of a batch */
} cnn__evaluator;

typedef struct cnn__evaluate_call {
    cnn__pass pass;
    float *softmax;
} cnn__evaluate_call;

static void cnn__evaluate_task(void *context, int unit, int thread) {
    const cnn__evaluate_call *a = (const cnn__evaluate_call *)context;
    const cnn__pass e = cnn__pass_unit(&a->pass, unit);
    const float *logits = cnn__block_forward(&e, thread);
    cnn__block_loss(&e, logits, a->softmax + (size_t)thread * (size_t)e.data->classes * CNN__LANES);
}

enum { CNN__EVALUATE_BATCH = 256 };

CNN__COLD static cnn_status cnn__evaluator_create(const char *where, cnn__evaluator *v, const cnn_net *net,
                                                  const cnn_dataset *data, int threads) {
    const int batch = cnn__min(CNN__EVALUATE_BATCH, data->count);
    memset(v, 0, sizeof *v);
    CNN__TRY(cnn__cpu_workspace_make(where, &v->ws, net, CNN_INFERENCE, batch, threads, NULL, 0, 1, NULL));
    const size_t softmax = (size_t)v->ws->threads * (size_t)data->classes * CNN__LANES;
    v->softmax = (float *)cnn__alloc((softmax + (size_t)batch) * sizeof(float));
    if (!v->softmax) {
        cnn_workspace_free(v->ws);
        v->ws = NULL;
        return cnn__no_memory(where, (softmax + (size_t)batch) * sizeof(float));
    }
    v->classes = (int *)(void *)(v->softmax + softmax);
    return CNN_OK;
}

static void cnn__evaluator_free(cnn__evaluator *v) {
    cnn__free(v->softmax);
    cnn_workspace_free(v->ws);
}

static void cnn__evaluator_run(cnn__evaluator *v, const cnn_net *net, const cnn_dataset *data,
                               cnn_evaluation *result) {
    double loss = 0;
    int correct = 0;
    int batch_index[CNN__EVALUATE_BATCH];
    for (int i = 0; i < data->count; i += v->ws->batch) {
        cnn__evaluate_call a;
        const int n = cnn__min(v->ws->batch, data->count - i);
        for (int j = 0; j < n; j++)
            batch_index[j] = i + j;
        cnn__pass_begin(&a.pass, net, v->ws, n);
        a.pass.data = data;
        a.pass.index = batch_index;
        a.pass.classes = v->classes;
        a.softmax = v->softmax;
        if (!i)
            cnn__prepare(&a.pass);
        cnn__parallel(v->ws->threads, cnn__units(n), cnn__evaluate_task, &a);
        cnn__add_blocks(&a.pass, &loss, &correct);
        for (int j = 0; result->confusion && j < n; j++)
            result->confusion[(size_t)data->labels[i + j] * (size_t)data->classes + (size_t)v->classes[j]]++;
    }
    result->loss = loss / data->count;
    result->accuracy = (double)correct / data->count;
}

static cnn_status cnn__cpu_evaluate(const char *where, const cnn_net *net, const cnn_dataset *data,
                                    int threads, cnn_evaluation *result) {
    cnn__evaluator v;
    CNN__TRY(cnn__evaluator_create(where, &v, net, data, threads));
    if (result->confusion)
        memset(result->confusion, 0, (size_t)data->classes * (size_t)data->classes * sizeof(int));
    cnn__evaluator_run(&v, net, data, result);
    cnn__evaluator_free(&v);
    return CNN_OK;
}

CNN_API cnn_status cnn_evaluate(const cnn_net *net, const cnn_dataset *data, int threads,
                                cnn_evaluation *evaluation) {
    static const char *const where = "cnn_evaluate";
    CNN__TRY(cnn__check_pointer(where, "net", net));
    CNN__TRY(cnn__check_dataset(where, "data", net, data));
    CNN__TRY(cnn__check_examples(where, data, NULL, data->count));
    CNN__TRY(cnn__check_pointer(where, "evaluation", evaluation));
    if (threads < 0)
        return cnn__fail(CNN_ERR_ARGUMENT, "%s: threads is %d, it must be at least 0", where, threads);
    return cnn__ops()->evaluate(where, net, data, threads, evaluation);
}

/* What cnn_fit works with, all taken before the first step. */
typedef struct cnn__fit {
    cnn_net *net;
    const cnn_dataset *train, *test;
    const cnn_fit_options *o;
    cnn_workspace *ws;
    cnn__evaluator test_run;
    int *index;
    float *velocity;
    void *device; /* what takes the place of these four on a device */
    cnn_progress progress;
    double loss;
    int correct;
    int64_t examples; /* since the start */
    double seconds;   /* of training steps */
} cnn__fit;

static int cnn__fit_call(cnn__fit *f, cnn_callback callback) {
    return callback && callback(&f->progress, f->o->user) ? f->progress.stopped = 1 : 0;
}

/* Whether a report is due after `step` of `steps`: the r-th of `reports` at step r*steps/reports. */
static int cnn__report_due(int step, int steps, int reports) {
    return (int64_t)step * reports / steps != (int64_t)(step - 1) * reports / steps;
}

CNN__COLD static cnn_status cnn__fit_diverged(const cnn__fit *f, const char *what) {
    const double lr = (double)f->o->sgd.lr;
    return cnn__fail(CNN_ERR_DIVERGED,
                     "cnn_fit: %s in epoch %d, step %d: the training diverged at learning rate %g; try a "
                     "smaller one, say %g",
                     what, f->progress.epoch, f->progress.step, lr, lr / 10);
}

/* The last step of an epoch may have been the fatal one. */
static int cnn__fit_sound(const cnn__fit *f) {
    double sum = 0;
    for (size_t i = 0; i < f->net->parameter_count; i++)
        sum += (double)f->net->parameters[i];
    return cnn__finite(sum);
}

/* The learning rate of the current step. */
static float cnn__fit_rate(const cnn__fit *f) {
    const cnn_progress *p = &f->progress;
    const double steps = (double)p->epochs * p->steps - 1, step = (double)(p->epoch - 1) * p->steps + p->step;
    const float lr = f->o->sgd.lr, end = f->o->lr_end;
    return end > 0 && steps > 0 ? lr + (end - lr) * (float)(step / steps) : lr;
}

static cnn_status cnn__cpu_fit_epoch(cnn__fit *f) {
    const cnn_fit_options *o = f->o;
    cnn_progress *p = &f->progress;
    cnn_sgd_options rule = o->sgd;
    cnn__sgd_call sgd = {&rule, f->net->parameters, f->velocity, f->ws->gradients, f->net->parameter_count};
    f->loss = 0;
    f->correct = 0;
    cnn_shuffle(f->index, f->train->count, o->seed, (uint64_t)p->epoch);
    for (p->step = 0; p->step < p->steps && !p->stopped;) {
        const int at = p->step * o->batch, n = cnn__min(o->batch, f->train->count - at);
        const double start = cnn__seconds();
        if (cnn__cpu_train_batch("cnn_fit", f->net, f->ws, f->train, f->index + at, n, &f->loss,
                                 &f->correct) != CNN_OK)
            return cnn__fit_diverged(f, "the loss is not finite");
        rule.lr = cnn__fit_rate(f);
        CNN__TRY(cnn__sgd_apply("cnn_fit", f->ws->threads, &sgd));
        f->seconds += cnn__seconds() - start;
        f->examples += n;
        p->step++;
        p->loss = f->loss / (at + n);
        p->accuracy = (double)f->correct / (at + n);
        p->examples_per_second = f->seconds > 0 ? (double)f->examples / f->seconds : 0;
        if (cnn__report_due(p->step, p->steps, cnn__or(o->reports, 5)))
            cnn__fit_call(f, o->on_progress);
    }
    return cnn__fit_sound(f) ? CNN_OK : cnn__fit_diverged(f, "a parameter is not finite");
}

static cnn_status cnn__cpu_fit_test(cnn__fit *f, cnn_evaluation *result) {
    cnn__evaluator_run(&f->test_run, f->net, f->test, result);
    return CNN_OK;
}

static cnn_status cnn__fit_run(cnn__fit *f, const cnn__table *ops) {
    cnn_progress *p = &f->progress;
    for (p->epoch = 1; p->epoch <= p->epochs; p->epoch++) {
        p->test_loss = p->test_accuracy = -1;
        CNN__TRY(ops->fit_epoch(f));
        if (p->stopped)
            return CNN_OK;
        if (f->test) {
            cnn_evaluation e = {0, 0, NULL};
            CNN__TRY(ops->fit_test(f, &e));
            p->test_loss = e.loss;
            p->test_accuracy = e.accuracy;
        }
        if (cnn__fit_call(f, f->o->on_epoch) || p->epoch == p->epochs)
            return CNN_OK;
    }
    return CNN_OK;
}

CNN__COLD static cnn_status cnn__cpu_fit_begin(cnn__fit *f) {
    const size_t count = (size_t)f->train->count * sizeof(int),
                 velocity = f->net->parameter_count * sizeof(float);
    f->index = (int *)cnn__alloc(count);
    f->velocity = f->o->sgd.momentum > 0 ? (float *)cnn__alloc(velocity + 1) : NULL;
    if (!f->index || (f->o->sgd.momentum > 0 && !f->velocity))
        return cnn__no_memory("cnn_fit", count + velocity);
    CNN__TRY(cnn__cpu_workspace_make("cnn_fit", &f->ws, f->net, CNN_TRAINING_STEP, f->o->batch, f->o->threads,
                                     NULL, 0, 1, NULL));
    f->ws->seed = f->o->seed;
    return f->test ? cnn__evaluator_create("cnn_fit", &f->test_run, f->net, f->test, f->o->threads) : CNN_OK;
}

static void cnn__cpu_fit_end(cnn__fit *f) {
    cnn__free(f->index);
    cnn__free(f->velocity);
    cnn_workspace_free(f->ws);
    cnn__evaluator_free(&f->test_run);
}

CNN__COLD static cnn_status cnn__fit_check(const char *where, const cnn_net *net, const cnn_dataset *train,
                                           const cnn_dataset *test, const cnn_fit_options *o) {
    CNN__TRY(cnn__check_pointer(where, "net", net));
    CNN__TRY(cnn__check_dataset(where, "train", net, train));
    CNN__TRY(cnn__check_pointer(where, "options", o));
    CNN__TRY(cnn__check_sgd(where, &o->sgd));
    if (!(o->lr_end >= 0 && o->lr_end <= o->sgd.lr))
        return cnn__fail(CNN_ERR_ARGUMENT, "%s: lr_end is %g, it must be between 0 and lr, which is %g",
                         where, (double)o->lr_end, (double)o->sgd.lr);
    if (o->epochs < 1 || o->batch < 1 || o->threads < 0 || o->reports < 0)
        return cnn__fail(
            CNN_ERR_ARGUMENT,
            "%s: epochs %d and batch %d must be at least 1, threads %d and reports %d at least 0", where,
            o->epochs, o->batch, o->threads, o->reports);
    if (o->batch > train->count)
        return cnn__fail(CNN_ERR_ARGUMENT, "%s: a batch of %d is larger than the data set of %d examples",
                         where, o->batch, train->count);
    CNN__TRY(cnn__check_examples(where, train, NULL, train->count));
    if (test) {
        CNN__TRY(cnn__check_dataset(where, "test", net, test));
        CNN__TRY(cnn__check_examples(where, test, NULL, test->count));
    }
    return CNN_OK;
}

CNN_API cnn_status cnn_fit(cnn_net *net, const cnn_dataset *train, const cnn_dataset *test,
                           const cnn_fit_options *options, cnn_progress *result) {
    CNN__TRY(cnn__fit_check("cnn_fit", net, train, test, options));
    cnn__fit f;
    memset(&f, 0, sizeof f);
    f.net = net;
    f.train = train;
    f.test = test;
    f.o = options;
    f.progress.epochs = options->epochs;
    f.progress.steps = (int)(((int64_t)train->count + options->batch - 1) / options->batch);
    const cnn__table *const ops = cnn__ops();
    cnn_status status = ops->fit_begin(&f);
    if (status == CNN_OK)
        status = cnn__fit_run(&f, ops);
    if (status == CNN_OK && result)
        *result = f.progress;
    ops->fit_end(&f);
    return status;
}

/* ---- >>data -------------------------------------------------------------------------------------------

   IDX: two zero bytes, the type (8: unsigned byte), the number of dimensions, each dimension as 4 bytes, high
   byte first, then the values. */

static uint32_t cnn__big_endian(const unsigned char *p) {
    return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

/* Checks a header of `dims` dimensions, of which `have` bytes are there, against the file's size. */
static cnn_status cnn__idx_header(const char *name, const unsigned char *p, size_t have, size_t size,
                                  int dims, int *dim) {
    const char *const what = dims == 3 ? "images" : "labels";
    if (!size)
        return cnn__fail(CNN_ERR_FORMAT, "%s: the file is empty", name);
    if (have >= 2 && p[0] == 0x1f && p[1] == 0x8b)
        return cnn__fail(CNN_ERR_FORMAT, "%s: the file is gzip-compressed; decompress it first", name);
    if (have >= 4 && (p[0] || p[1] || p[2] != 8 || p[3] != dims))
        return cnn__fail(CNN_ERR_FORMAT, "%s: the magic number is %d %d %d %d, IDX %s have 0 0 8 %d", name,
                         p[0], p[1], p[2], p[3], what, dims);
    if (have < 4 + 4 * (size_t)dims)
        return cnn__fail(CNN_ERR_FORMAT, "%s: the header is cut off: %zu bytes of %d", name, have,
                         4 + 4 * dims);
    size_t values = 1;
    for (int i = 0; i < dims; i++) {
        static const char *const fields[] = {"count", "height", "width"};
        const uint32_t d = cnn__big_endian(p + 4 + 4 * i);
        if (d < 1 || d > INT_MAX)
            return cnn__fail(CNN_ERR_FORMAT, "%s: the %s is %zu, it must be 1 to 2147483647", name, fields[i],
                             (size_t)d);
        dim[i] = (int)d;
        values = cnn__mul(values, d);
    }
    if (values != size - (4 + 4 * (size_t)dims))
        return cnn__fail(CNN_ERR_FORMAT,
                         "%s: the header's count of %d %s asks for %zu bytes of data, the file has %zu", name,
                         dim[0], what, values, size - (4 + 4 * (size_t)dims));
    return CNN_OK;
}

/* Both headers, and that they agree. */
static cnn_status cnn__idx_headers(const char *image_name, const unsigned char *images, size_t image_have,
                                   size_t image_bytes, const char *label_name, const unsigned char *labels,
                                   size_t label_have, size_t label_bytes, int classes, cnn_dataset *data) {
    int dim[3] = {0, 0, 0}, count = 0;
    CNN__TRY(cnn__idx_header(image_name, images, image_have, image_bytes, 3, dim));
    CNN__TRY(cnn__idx_header(label_name, labels, label_have, label_bytes, 1, &count));
    if (count != dim[0])
        return cnn__fail(CNN_ERR_FORMAT, "%s: the count is %d labels, %s has %d images", label_name, count,
                         image_name, dim[0]);
    memset(data, 0, sizeof *data);
    data->count = count;
    data->c = 1;
    data->h = dim[1];
    data->w = dim[2];
    data->classes = classes;
    return CNN_OK;
}

static cnn_status cnn__idx_labels(const char *name, const cnn_dataset *d) {
    for (int i = 0; i < d->count; i++)
        if (d->labels[i] >= d->classes)
            return cnn__fail(CNN_ERR_FORMAT, "%s: label %d of example %d is outside the classes 0 to %d",
                             name, d->labels[i], i, d->classes - 1);
    return CNN_OK;
}

CNN__COLD static cnn_status cnn__check_classes(const char *where, int classes) {
    return classes >= 1 && classes <= 256
               ? CNN_OK
               : cnn__fail(CNN_ERR_ARGUMENT, "%s: classes is %d, it must be 1 to 256", where, classes);
}

enum { CNN__IDX_IMAGES = 16, CNN__IDX_LABELS = 8 }; /* bytes of the headers */

CNN_API cnn_status cnn_dataset_from_idx(cnn_dataset *data, const void *images, size_t image_bytes,
                                        const void *labels, size_t label_bytes, int classes) {
    static const char *const where = "cnn_dataset_from_idx";
    cnn_dataset d;
    CNN__TRY(cnn__check_pointer(where, "data", data));
    CNN__TRY(cnn__check_pointer(where, "images", images));
    CNN__TRY(cnn__check_pointer(where, "labels", labels));
    CNN__TRY(cnn__check_classes(where, classes));
    CNN__TRY(cnn__idx_headers("cnn_dataset_from_idx: images", (const unsigned char *)images, image_bytes,
                              image_bytes, "cnn_dataset_from_idx: labels", (const unsigned char *)labels,
                              label_bytes, label_bytes, classes, &d));
    d.bytes = (const unsigned char *)images + CNN__IDX_IMAGES;
    d.labels = (const unsigned char *)labels + CNN__IDX_LABELS;
    CNN__TRY(cnn__idx_labels("cnn_dataset_from_idx: labels", &d));
    *data = d;
    return CNN_OK;
}

#ifndef CNN_NO_STDIO
typedef struct cnn__file {
    const char *name;
    FILE *stream;
    unsigned char header[CNN__IDX_IMAGES];
    size_t have, size;
} cnn__file;

/* Opens a file, reads a header's worth and finds its size. */
static cnn_status cnn__file_open(cnn__file *f, const char *name, size_t header) {
    memset(f, 0, sizeof *f);
    f->name = name;
    f->stream = fopen(name, "rb");
    if (!f->stream)
        return cnn__fail(CNN_ERR_IO, "%s: the file cannot be opened; is it there?", name);
    f->have = fread(f->header, 1, header, f->stream);
    if (ferror(f->stream))
        return cnn__fail(CNN_ERR_IO, "%s: the file cannot be read; is it a folder?", name);
    const long end = fseek(f->stream, 0, SEEK_END) ? -1 : ftell(f->stream);
    if (end < 0)
        return cnn__fail(CNN_ERR_IO, "%s: the file's size cannot be found", name);
    f->size = (size_t)end;
    return CNN_OK;
}

static cnn_status cnn__file_body(cnn__file *f, size_t header, unsigned char *to) {
    const size_t n = f->size - header;
    if (fseek(f->stream, (long)header, SEEK_SET) || fread(to, 1, n, f->stream) != n)
        return cnn__fail(CNN_ERR_IO, "%s: %zu bytes of data cannot be read", f->name, n);
    return CNN_OK;
}

static void cnn__file_close(cnn__file *f) {
    if (f->stream)
        fclose(f->stream);
}

static cnn_status cnn__idx_read(cnn__file *images, cnn__file *labels, const char *image_file,
                                const char *label_file, int classes, cnn_dataset *d) {
    CNN__TRY(cnn__file_open(images, image_file, CNN__IDX_IMAGES));
    CNN__TRY(cnn__file_open(labels, label_file, CNN__IDX_LABELS));
    CNN__TRY(cnn__idx_headers(image_file, images->header, images->have, images->size, label_file,
                              labels->header, labels->have, labels->size, classes, d));
    const size_t pixels = images->size - CNN__IDX_IMAGES, bytes = pixels + (size_t)d->count;
    unsigned char *memory = (unsigned char *)cnn__alloc(bytes);
    if (!memory)
        return cnn__no_memory("cnn_dataset_load_idx", bytes);
    d->memory = memory;
    d->bytes = memory;
    d->labels = memory + pixels;
    CNN__TRY(cnn__file_body(images, CNN__IDX_IMAGES, memory));
    CNN__TRY(cnn__file_body(labels, CNN__IDX_LABELS, memory + pixels));
    return cnn__idx_labels(label_file, d);
}

CNN_API cnn_status cnn_dataset_load_idx(cnn_dataset *data, const char *image_file, const char *label_file,
                                        int classes) {
    static const char *const where = "cnn_dataset_load_idx";
    CNN__TRY(cnn__check_pointer(where, "data", data));
    CNN__TRY(cnn__check_pointer(where, "image_file", image_file));
    CNN__TRY(cnn__check_pointer(where, "label_file", label_file));
    CNN__TRY(cnn__check_classes(where, classes));
    cnn__file images, labels;
    cnn_dataset d;
    memset(&images, 0, sizeof images);
    memset(&labels, 0, sizeof labels);
    memset(&d, 0, sizeof d);
    const cnn_status status = cnn__idx_read(&images, &labels, image_file, label_file, classes, &d);
    cnn__file_close(&images);
    cnn__file_close(&labels);
    if (status == CNN_OK)
        *data = d;
    else
        cnn__free(d.memory);
    return status;
}
#endif

CNN_API void cnn_dataset_free(cnn_dataset *data) {
    if (!data)
        return;
    cnn__free(data->memory);
    memset(data, 0, sizeof *data);
}

CNN_API cnn_status cnn_dataset_batch(const cnn_dataset *data, const int *index, cnn_tensor *x, int *labels) {
    static const char *const where = "cnn_dataset_batch";
    CNN__TRY(cnn__check_dataset(where, "data", NULL, data));
    CNN__TRY(cnn__check(where, "x", x));
    CNN__TRY(cnn__check_shape(where, "x", x, x->n, data->c, data->h, data->w));
    CNN__TRY(cnn__check_examples(where, data, index, x->n));
    const size_t f = cnn__size(x) / (size_t)x->n;
    for (int i = 0; i < x->n; i++) {
        const size_t at = (size_t)(index ? index[i] : i);
        float *to = x->data + (size_t)i * f;
        if (labels)
            labels[i] = data->labels[at];
        if (data->floats)
            memcpy(to, data->floats + at * f, f * sizeof(float));
        for (size_t j = 0; data->bytes && j < f; j++)
            to[j] = (float)data->bytes[at * f + j] / 255.0f;
    }
    return CNN_OK;
}

CNN__OPTIMIZE_END

#ifdef CNN_CUDA
/* ---- >>cuda -------------------------------------------------------------------------------------------

   Kernels are cnn__gpu_..., what starts them on a stream cnn__launch_..., the rows of the table
   cnn__cuda_...; only the last copy memory of the caller's to the device and back, and wait. Tensors are
   planar, NCHW, as the caller sees them.
     Every sum runs in an order fixed by the shapes alone: no floating-point atomics, and partial sums are
   split by constants, never by the number of processors. So two runs give the same bits.
     Shared memory is dynamic and named by CNN__SHARED, launches go through CNN__LAUNCH: a test defines both
   to run the kernels on a CPU. */

#include <atomic>
#ifndef CNN__CUDA_SHIM
#include <cuda_runtime.h>
#define CNN__SHARED(type, name)                                                                              \
    extern __shared__ __align__(16) unsigned char cnn__shared_bytes[];                                       \
    type *const name = reinterpret_cast<type *>(cnn__shared_bytes)
#define CNN__LAUNCH(kernel, grid, block, shared, stream, ...)                                                \
    kernel<<<grid, block, shared, stream>>>(__VA_ARGS__)
#define CNN__GPU_UNROLL  _Pragma("unroll")
#define CNN__GPU_UNROLL4 _Pragma("unroll 4") /* of what is rarely done: code must be fetched, too */
#define CNN__GPU_CALL    __noinline__        /* for what an unrolled loop would repeat at length */

/* Launches a kernel that may start while the one before it in the stream still runs: it calls
   cnn__gpu_wait_for_last before it touches what another kernel has to do with. */
template <class... P, class... A>
static void cnn__launch_early(int allowed, void (*kernel)(P...), unsigned grid, unsigned block, size_t shared,
                              cudaStream_t stream, A... arguments) {
    cudaLaunchConfig_t config = cudaLaunchConfig_t();
    cudaLaunchAttribute early = cudaLaunchAttribute();
    early.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    early.val.programmaticStreamSerializationAllowed = 1;
    config.gridDim = grid;
    config.blockDim = block;
    config.dynamicSmemBytes = shared;
    config.stream = stream;
    config.attrs = &early;
    config.numAttrs = allowed ? 1 : 0;
    (void)cudaLaunchKernelEx(&config, kernel, static_cast<P>(arguments)...); /* cudaGetLastError tells */
}

/* Lets the next kernel start, as soon as all blocks have called this, and waits for the last to end. */
static __device__ __forceinline__ void cnn__gpu_wait_for_last(void) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;\n\tgriddepcontrol.wait;" ::: "memory");
#endif
}

/* threadIdx.x, of which the compiler does not know that it stays the same: what follows from it is worked out
   where it is used, instead of filling registers, and then memory, from the kernel's start on. */
static __device__ __forceinline__ int cnn__gpu_thread(void) {
    int t;
    asm volatile("mov.u32 %0, %%tid.x;" : "=r"(t));
    return t;
}

/* The same address in shared memory, by a way that the compiler does not see through: it would work the
   address out anew, at length, wherever it is used. By whole warps. */
static __device__ __forceinline__ float *cnn__gpu_keep(float *p) {
    const unsigned lane = threadIdx.x % 32;
    return (float *)__cvta_shared_to_generic(
        __shfl_sync(0xffffffffu, (unsigned)__cvta_generic_to_shared(p) + lane, 0));
}

/* d += a*b for the 16x8 by 8x8 product that a warp shares out (PTX: mma.m16n8k8, tf32). */
static __device__ __forceinline__ void cnn__mma_tf32(float d[4], const unsigned a[4], const unsigned b[2]) {
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800
    asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
                 "{%8, %9}, {%0, %1, %2, %3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#else
    (void)a;
    (void)b;
    d[0] = __int_as_float(0x7fc00000); /* cnn_device_tf32 refuses such code */
#endif
}

/* Copies to shared memory that go on beside the thread's work: one float, or four at multiples of 16 bytes;
   zeros unless ok. What a thread began before cnn__gpu_copies_end is there once cnn__gpu_copies_wait<N> finds no more
   than N such groups behind it under way, for other threads after a barrier. */
static __device__ __forceinline__ void cnn__copy(float *to, const float *from, bool ok) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;"
                 :
                 : "r"((unsigned)__cvta_generic_to_shared(to)), "l"(from), "r"(ok ? 4 : 0));
#else
    *to = ok ? *from : 0.0f;
#endif
}

static __device__ __forceinline__ void cnn__copy4(float *to, const float *from, bool ok) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;"
                 :
                 : "r"((unsigned)__cvta_generic_to_shared(to)), "l"(from), "r"(ok ? 16 : 0));
#else
    *(float4 *)(void *)to = ok ? *(const float4 *)(const void *)from : make_float4(0, 0, 0, 0);
#endif
}

static __device__ __forceinline__ void cnn__gpu_copies_end(void) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
    asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}

template <int N> static __device__ __forceinline__ void cnn__gpu_copies_wait(void) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
    asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
#endif
}
#else
#define CNN__GPU_UNROLL
#define CNN__GPU_UNROLL4
#define CNN__GPU_CALL
#define cnn__launch_early(allowed, ...) ((void)(allowed), CNN__LAUNCH(__VA_ARGS__))
#define cnn__gpu_wait_for_last()
#define cnn__gpu_thread() ((int)threadIdx.x)
#define cnn__gpu_keep(p)  (p)
#endif

static cnn_status cnn__cuda_check(const char *where, cudaError_t error, const char *call, int line) {
    if (error == cudaSuccess)
        return CNN_OK;
    (void)cudaGetLastError(); /* the next call must not report it again */
    return cnn__fail(error == cudaErrorMemoryAllocation ? CNN_ERR_NOMEM : CNN_ERR_DEVICE,
                     "%s: %s (%s), from cnn.h:%d: %s", where, cudaGetErrorString(error),
                     cudaGetErrorName(error), line, call);
}

#define CNN__CUDA(where, call) CNN__TRY(cnn__cuda_check(where, call, #call, __LINE__))
#define CNN__RUN(where, kernel, grid, block, shared, stream, ...)                                            \
    do {                                                                                                     \
        CNN__LAUNCH(kernel, grid, block, shared, stream, __VA_ARGS__);                                       \
        CNN__TRY(cnn__cuda_check(where, cudaGetLastError(), #kernel, __LINE__));                             \
    } while (0)

#define CNN__RUN_EARLY(early, where, kernel, grid, block, shared, stream, ...)                               \
    do {                                                                                                     \
        cnn__launch_early(early, kernel, grid, block, shared, stream, __VA_ARGS__);                          \
        CNN__TRY(cnn__cuda_check(where, cudaGetLastError(), #kernel, __LINE__));                             \
    } while (0)

enum {
    CNN__BLOCK = 256,      /* threads of most kernels */
    CNN__STEP = 16,        /* steps of a product at a time */
    CNN__STEP_TF32 = 32,   /* those of a convolution on tensor cores */
    CNN__SUM_CHUNK = 8192, /* elements that a block sums */
    CNN__SUM_ROWS = 8      /* rows at a time of a sum down columns */
};

/* ---- the device ---- */

typedef struct cnn__gpu_state {
    int ready;
    int architecture; /* that the code in use was built for: 900 is compute capability 9.0 */
    int tf32;         /* wished for */
    char name[256];
} cnn__gpu_state;

static cnn__gpu_state cnn__gpu;
static int cnn__cuda_no_fuse; /* tests set it: networks then take no fused kernels */

/* For what frees: its failure is nobody's to report, least of all the next call's. */
static void cnn__cuda_forget(cudaError_t error) {
    if (error != cudaSuccess)
        (void)cudaGetLastError();
}

static void cnn__cuda_release(void *start) {
    cnn__cuda_forget(cudaFree(start));
}

static void *cnn__cuda_allocate(size_t bytes) {
    static const char *const where = "cnn__cuda_allocate";
    const size_t total = cnn__add(bytes, CNN__ALIGN + sizeof(cnn__origin));
    void *start = NULL;
    if (total == SIZE_MAX ||
        cnn__cuda_check(where, cudaMallocManaged(&start, total), "cudaMallocManaged", __LINE__) != CNN_OK)
        return NULL;
    void *p = cnn__place(start, cnn__cuda_release);
    if (cnn__cuda_check(where, cudaMemsetAsync(p, 0, bytes, 0), "cudaMemsetAsync", __LINE__) != CNN_OK ||
        cnn__cuda_check(where, cudaStreamSynchronize(0), "cudaStreamSynchronize", __LINE__) != CNN_OK) {
        cnn__free(p);
        return NULL;
    }
    return p;
}

static cnn_status cnn__cuda_take(const char *where, void **to, size_t bytes, int line) {
    const cudaError_t error = cudaMalloc(to, bytes);
    if (error != cudaErrorMemoryAllocation)
        return cnn__cuda_check(where, error, "cudaMalloc", line);
    (void)cudaGetLastError();
    return cnn__fail(CNN_ERR_NOMEM, "%s: out of device memory (%zu bytes wanted), from cnn.h:%d: cudaMalloc",
                     where, bytes, line);
}

#define CNN__CUDA_TAKE(where, to, bytes) CNN__TRY(cnn__cuda_take(where, (void **)(to), bytes, __LINE__))

/* One call of an operator: its arguments where the device can use them. */
typedef struct cnn__staged {
    void *host, *device;
    size_t bytes;
    int out;
} cnn__staged;

typedef struct cnn__call {
    const char *where;
    cudaStream_t stream;
    cnn_status status; /* of the first failure; what follows it does nothing */
    int count;
    int scratch; /* whether it has cnn__scratch */
    cnn__staged staged[10];
} cnn__call;

/* Scratch memory that calls hand on, since taking it can last longer than their work; one call at a time has
   it, others take their own. */
static std::atomic_flag cnn__scratch_busy = ATOMIC_FLAG_INIT;
static void *cnn__scratch;
static size_t cnn__scratch_bytes;

static void cnn__scratch_free(void) {
    cnn__cuda_release(cnn__scratch);
}

static cnn_status cnn__scratch_grow(const char *where, size_t bytes) {
    static int registered;
    if (!registered)
        registered = !atexit(cnn__scratch_free);
    void *old = cnn__scratch;
    cnn__scratch = NULL;
    cnn__scratch_bytes = 0;
    CNN__CUDA(where, cudaFree(old));
    CNN__CUDA_TAKE(where, &cnn__scratch, bytes);
    cnn__scratch_bytes = bytes;
    return CNN_OK;
}

enum { CNN__IN = 1, CNN__OUT = 2 };

static cnn__call cnn__call_begin(const char *where, cudaStream_t stream) {
    cnn__call c;
    memset(&c, 0, sizeof c);
    c.where = where;
    c.stream = stream;
    return c;
}

static cnn_status cnn__call_stage(cnn__call *c, void *host, size_t bytes, int direction, void **device) {
    cudaPointerAttributes attributes;
    if (host) {
        CNN__CUDA(c->where, cudaPointerGetAttributes(&attributes, host));
        if (attributes.type == cudaMemoryTypeDevice || attributes.type == cudaMemoryTypeManaged) {
            *device = host;
            return CNN_OK;
        }
    }
    CNN__CUDA_TAKE(c->where, device, bytes);
    cnn__staged *s = &c->staged[c->count++];
    s->host = host;
    s->device = *device;
    s->bytes = bytes;
    s->out = direction & CNN__OUT;
    if (direction & CNN__IN)
        CNN__CUDA(c->where, cudaMemcpyAsync(*device, host, bytes, cudaMemcpyHostToDevice, c->stream));
    return CNN_OK;
}

/* The device's view of an argument, NULL of NULL. */
static void *cnn__call_view(cnn__call *c, const void *host, size_t bytes, int direction) {
    void *device = NULL;
    if (host && c->status == CNN_OK)
        c->status = cnn__call_stage(c, const_cast<void *>(host), bytes, direction, &device);
    return device;
}

static float *cnn__call_tensor(cnn__call *c, const cnn_tensor *t, int direction) {
    return t ? (float *)cnn__call_view(c, t->data, cnn__size(t) * sizeof(float), direction) : NULL;
}

/* Memory for the call alone; NULL of 0 bytes. */
static void *cnn__call_scratch(cnn__call *c, size_t bytes) {
    void *device = NULL;
    if (!bytes || c->status != CNN_OK)
        return NULL;
    if (c->scratch || cnn__scratch_busy.test_and_set()) {
        c->status = cnn__call_stage(c, NULL, bytes, 0, &device);
        return device;
    }
    c->scratch = 1;
    if (cnn__scratch_bytes < bytes)
        c->status = cnn__scratch_grow(c->where, bytes);
    return cnn__scratch;
}

/* Waits, copies results to the caller's memory and frees. Of a failed call nothing is copied. */
static cnn_status cnn__call_end(cnn__call *c) {
    const cnn_status waited =
        cnn__cuda_check(c->where, cudaStreamSynchronize(c->stream), "cudaStreamSynchronize", __LINE__);
    if (c->status == CNN_OK)
        c->status = waited;
    for (int i = 0; i < c->count; i++) {
        const cnn__staged *s = &c->staged[i];
        if (s->out && c->status == CNN_OK)
            c->status =
                cnn__cuda_check(c->where, cudaMemcpy(s->host, s->device, s->bytes, cudaMemcpyDeviceToHost),
                                "cudaMemcpy", __LINE__);
    }
    for (int i = 0; i < c->count; i++) {
        const cnn_status freed =
            cnn__cuda_check(c->where, cudaFree(c->staged[i].device), "cudaFree", __LINE__);
        if (c->status == CNN_OK)
            c->status = freed;
    }
    if (c->scratch)
        cnn__scratch_busy.clear();
    return c->status;
}

/* status = expression, unless something failed before. */
#define CNN__THEN(c, expression)                                                                             \
    do {                                                                                                     \
        if ((c).status == CNN_OK)                                                                            \
            (c).status = (expression);                                                                       \
    } while (0)

static size_t cnn__pieces(size_t n, size_t piece) {
    return (n + piece - 1) / piece;
}

/* The architecture that the code in use was built for; where there is none for this device, it does not run.
   */
static __global__ void cnn__gpu_architecture(int *to) {
#ifdef __CUDA_ARCH__
    *to = __CUDA_ARCH__;
#else
    *to = 900;
#endif
}

static cnn_status cnn__launch_architecture(const char *where, cudaStream_t stream, int *to) {
    CNN__RUN(where, cnn__gpu_architecture, 1, 1, 0, stream, to);
    return CNN_OK;
}

static cnn_status cnn__cuda_probe(const char *where) {
    int architecture = 0;
    cudaDeviceProp properties;
    CNN__CUDA(where, cudaSetDevice(0));
    CNN__CUDA(where, cudaGetDeviceProperties(&properties, 0));
    cnn__call c = cnn__call_begin(where, 0);
    int *view = (int *)cnn__call_view(&c, &architecture, sizeof architecture, CNN__OUT);
    CNN__THEN(c, cnn__launch_architecture(where, c.stream, view));
    CNN__TRY(cnn__call_end(&c));
    cnn__writer out = {cnn__gpu.name, 0, sizeof cnn__gpu.name};
    cnn__put_text(&out, properties.name);
    cnn__gpu.architecture = architecture;
    cnn__gpu.ready = 1;
    return CNN_OK;
}

/* Finds out, once, whether the first device can be used. */
static cnn_status cnn__cuda_open(const char *where) {
    int count = 0;
    if (cnn__gpu.ready)
        return CNN_OK;
    const cudaError_t error = cudaGetDeviceCount(&count);
    if (error != cudaSuccess || count < 1) {
        (void)cudaGetLastError();
        return cnn__fail(CNN_ERR_DEVICE, "%s: CUDA has no usable GPU here: %s", where,
                         error == cudaSuccess ? "the driver finds none" : cudaGetErrorString(error));
    }
    return cnn__cuda_probe(where);
}

static const char *cnn__cuda_name(void) {
    return cnn__gpu.name;
}

static cnn_status cnn__cuda_tf32(const char *where, int on) {
    if (on && cnn__gpu.ready && cnn__gpu.architecture < 800)
        return cnn__fail(CNN_ERR_DEVICE,
                         "%s: TF32 needs compute capability 8.0, the code in use was built for %d.%d", where,
                         cnn__gpu.architecture / 100, cnn__gpu.architecture / 10 % 10);
    cnn__gpu.tf32 = on != 0;
    return CNN_OK;
}

/* ---- element by element ---- */

/* f(0) to f(n-1), in any order. */
template <class F> static __global__ void cnn__gpu_map(F f, size_t n) {
    const size_t step = (size_t)gridDim.x * blockDim.x;
    for (size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x; i < n; i += step)
        f(i);
}

template <class F> static cnn_status cnn__launch_map(const char *where, cudaStream_t stream, F f, size_t n) {
    const size_t blocks = cnn__pieces(n, CNN__BLOCK);
    CNN__RUN(where, cnn__gpu_map<F>, (unsigned)(blocks < 65536 ? blocks : 65536), CNN__BLOCK, 0, stream, f,
             n);
    return CNN_OK;
}

static __device__ __forceinline__ float cnn__gpu_activation(int kind, float x) {
    switch (kind) {
    case CNN_SIGMOID:
        return 1.0f / (1.0f + expf(-x));
    case CNN_TANH:
        return tanhf(x);
    case CNN_RELU:
        return x <= 0 ? 0.0f : x; /* of NaN, NaN */
    default:
        return x;
    }
}

static __device__ __forceinline__ void cnn__gpu_take4(const float *from, float *to) {
    const float4 v = *(const float4 *)(const void *)from;
    to[0] = v.x;
    to[1] = v.y;
    to[2] = v.z;
    to[3] = v.w;
}

static __device__ CNN__GPU_CALL float cnn__gpu_activation_call(int kind, float x) {
    return cnn__gpu_activation(kind, x);
}

/* What the gradient of an activation's result y is multiplied by. */
static __device__ __forceinline__ float cnn__gpu_slope(int kind, float y) {
    switch (kind) {
    case CNN_SIGMOID:
        return y * (1.0f - y);
    case CNN_TANH:
        return 1.0f - y * y;
    case CNN_RELU:
        return y <= 0 ? 0.0f : 1.0f;
    default:
        return 1.0f;
    }
}

struct cnn__f_fill {
    float *y, value;
    __device__ void operator()(size_t i) const {
        y[i] = value;
    }
};

struct cnn__f_draw {
    float *y, scale;
    int normal;
    uint64_t seed;
    __device__ void operator()(size_t i) const {
        y[i] = cnn__drawn(normal, scale, seed, i);
    }
};

struct cnn__f_activation {
    int kind;
    const float *x;
    float *y;
    __device__ void operator()(size_t i) const {
        y[i] = cnn__gpu_activation(kind, x[i]);
    }
};

struct cnn__f_activation_backward {
    int kind;
    const float *y, *dy;
    float *dx;
    __device__ void operator()(size_t i) const {
        const float slope = cnn__gpu_slope(kind, y[i]);
        dx[i] = kind == CNN_RELU && slope == 0 ? 0.0f : dy[i] * slope;
    }
};

/* Where the seed of dropout comes from: given, or counted on by the device from step to step. */
struct cnn__f_dropout {
    const float *x;
    float *y, p;
    uint64_t seed;
    __device__ void operator()(size_t i) const {
        y[i] = x[i] * cnn__dropout_scale(p, seed, i);
    }
};

struct cnn__f_difference {
    const float *y, *target;
    float *dy, scale;
    __device__ void operator()(size_t i) const {
        dy[i] = scale * (y[i] - target[i]);
    }
};

/* One parameter's step, as in cnn_sgd_options; returns the new value. */
static __device__ __forceinline__ float cnn__gpu_sgd(const cnn_sgd_options &o, float lr, float p, float g,
                                                     float *velocity) {
    g += o.weight_decay * p;
    if (o.momentum > 0) {
        const float v = o.momentum * *velocity + g;
        *velocity = v;
        g = o.nesterov ? g + o.momentum * v : v;
    }
    return p - lr * g;
}

struct cnn__f_sgd {
    cnn_sgd_options options;
    float *parameters;
    const float *gradients;
    float *velocity;
    __device__ void operator()(size_t i) const {
        parameters[i] = cnn__gpu_sgd(options, options.lr, parameters[i], gradients[i], velocity + i);
    }
};

/* g = or += the sum of `parts` arrays of `count` elements. */
struct cnn__f_fold {
    const float *part;
    size_t count;
    int parts, accumulate;
    float *g;
    __device__ void operator()(size_t i) const {
        float sum = 0;
        for (int k = 0; k < parts; k++)
            sum += part[(size_t)k * count + i];
        g[i] = accumulate ? g[i] + sum : sum;
    }
};

/* Softmax of one sample and position, whose c values lie `plane` apart. */
struct cnn__f_softmax {
    const float *x;
    float *y;
    int c;
    size_t plane;
    __device__ void operator()(size_t i) const {
        const size_t at = i / plane * (size_t)c * plane + i % plane;
        float max = x[at], sum = 0;
        for (int k = 1; k < c; k++) {
            const float v = x[at + (size_t)k * plane];
            max = v > max || v != v ? v : max;
        }
        for (int k = 0; k < c; k++)
            sum += expf(x[at + (size_t)k * plane] - max);
        for (int k = 0; k < c; k++)
            y[at + (size_t)k * plane] = expf(x[at + (size_t)k * plane] - max) / sum;
    }
};

struct cnn__f_softmax_backward {
    const float *y, *dy;
    float *dx;
    int c;
    size_t plane;
    __device__ void operator()(size_t i) const {
        const size_t at = i / plane * (size_t)c * plane + i % plane;
        float dot = 0;
        for (int k = 0; k < c; k++)
            dot += y[at + (size_t)k * plane] * dy[at + (size_t)k * plane];
        for (int k = 0; k < c; k++) {
            const size_t j = at + (size_t)k * plane;
            dx[j] = y[j] * (dy[j] - dot);
        }
    }
};

static cnn_status cnn__cuda_fill(const char *where, float *to, size_t n, float value) {
    cnn__call c = cnn__call_begin(where, 0);
    const cnn__f_fill f = {(float *)cnn__call_view(&c, to, n * sizeof(float), CNN__OUT), value};
    CNN__THEN(c, cnn__launch_map(where, c.stream, f, n));
    return cnn__call_end(&c);
}

static cnn_status cnn__cuda_copy(const char *where, float *to, const float *from, size_t n) {
    CNN__CUDA(where, cudaMemcpyAsync(to, from, n * sizeof(float), cudaMemcpyDefault, 0));
    CNN__CUDA(where, cudaStreamSynchronize(0));
    return CNN_OK;
}

static cnn_status cnn__cuda_draw(const char *where, float *to, size_t n, int normal, float scale,
                                 uint64_t seed) {
    cnn__call c = cnn__call_begin(where, 0);
    const cnn__f_draw f = {(float *)cnn__call_view(&c, to, n * sizeof(float), CNN__OUT), scale, normal, seed};
    CNN__THEN(c, cnn__launch_map(where, c.stream, f, n));
    return cnn__call_end(&c);
}

static cnn_status cnn__cuda_activation_forward(const char *where, cnn_layer_kind kind, const cnn_tensor *x,
                                               cnn_tensor *y) {
    cnn__call c = cnn__call_begin(where, 0);
    const cnn__f_activation f = {(int)kind, cnn__call_tensor(&c, x, CNN__IN),
                                 cnn__call_tensor(&c, y, CNN__OUT)};
    CNN__THEN(c, cnn__launch_map(where, c.stream, f, cnn__size(x)));
    return cnn__call_end(&c);
}

static cnn_status cnn__cuda_activation_backward(const char *where, cnn_layer_kind kind, const cnn_tensor *y,
                                                const cnn_tensor *dy, cnn_tensor *dx) {
    cnn__call c = cnn__call_begin(where, 0);
    const cnn__f_activation_backward f = {(int)kind, cnn__call_tensor(&c, y, CNN__IN),
                                          cnn__call_tensor(&c, dy, CNN__IN),
                                          cnn__call_tensor(&c, dx, CNN__OUT)};
    CNN__THEN(c, cnn__launch_map(where, c.stream, f, cnn__size(y)));
    return cnn__call_end(&c);
}

static cnn_status cnn__cuda_dropout(const char *where, const cnn_tensor *x, float p, uint64_t seed,
                                    cnn_tensor *y) {
    cnn__call c = cnn__call_begin(where, 0);
    const cnn__f_dropout f = {cnn__call_tensor(&c, x, CNN__IN), cnn__call_tensor(&c, y, CNN__OUT), p, seed};
    CNN__THEN(c, cnn__launch_map(where, c.stream, f, cnn__size(x)));
    return cnn__call_end(&c);
}

static cnn_status cnn__cuda_softmax_forward(const char *where, const cnn_tensor *x, cnn_tensor *y) {
    const size_t plane = (size_t)x->h * (size_t)x->w;
    cnn__call c = cnn__call_begin(where, 0);
    const cnn__f_softmax f = {cnn__call_tensor(&c, x, CNN__IN), cnn__call_tensor(&c, y, CNN__OUT), x->c,
                              plane};
    CNN__THEN(c, cnn__launch_map(where, c.stream, f, (size_t)x->n * plane));
    return cnn__call_end(&c);
}

static cnn_status cnn__cuda_softmax_backward(const char *where, const cnn_tensor *y, const cnn_tensor *dy,
                                             cnn_tensor *dx) {
    const size_t plane = (size_t)y->h * (size_t)y->w;
    cnn__call c = cnn__call_begin(where, 0);
    const cnn__f_softmax_backward f = {cnn__call_tensor(&c, y, CNN__IN), cnn__call_tensor(&c, dy, CNN__IN),
                                       cnn__call_tensor(&c, dx, CNN__OUT), y->c, plane};
    CNN__THEN(c, cnn__launch_map(where, c.stream, f, (size_t)y->n * plane));
    return cnn__call_end(&c);
}

static cnn_status cnn__cuda_squared_error_backward(const char *where, const cnn_tensor *y,
                                                   const cnn_tensor *target, float scale, cnn_tensor *dy) {
    cnn__call c = cnn__call_begin(where, 0);
    const cnn__f_difference f = {cnn__call_tensor(&c, y, CNN__IN), cnn__call_tensor(&c, target, CNN__IN),
                                 cnn__call_tensor(&c, dy, CNN__OUT), scale};
    CNN__THEN(c, cnn__launch_map(where, c.stream, f, cnn__size(y)));
    return cnn__call_end(&c);
}

static cnn_status cnn__cuda_sgd_step(const char *where, const cnn_sgd_options *options, float *parameters,
                                     const float *gradients, float *velocity, size_t count) {
    const size_t bytes = count * sizeof(float);
    cnn__call c = cnn__call_begin(where, 0);
    if (!count)
        return CNN_OK;
    const cnn__f_sgd f = {
        *options, (float *)cnn__call_view(&c, parameters, bytes, CNN__IN | CNN__OUT),
        (const float *)cnn__call_view(&c, gradients, bytes, CNN__IN),
        options->momentum > 0 ? (float *)cnn__call_view(&c, velocity, bytes, CNN__IN | CNN__OUT) : NULL};
    CNN__THEN(c, cnn__launch_map(where, c.stream, f, count));
    return cnn__call_end(&c);
}

/* ---- sums ---- */

/* The sum of the block's values, in a fixed order; valid in thread 0. */
static __device__ double cnn__gpu_block_sum(double value, double *shared) {
    const int t = (int)threadIdx.x;
    shared[t] = value;
    for (int half = (int)blockDim.x / 2; half; half /= 2) {
        __syncthreads();
        if (t < half)
            shared[t] += shared[t + half];
    }
    __syncthreads();
    return shared[0];
}

/* part[b] = the sum of f(i) over chunk b of 0..n-1. */
template <class F> static __global__ void cnn__gpu_sum(F f, size_t n, double *part) {
    CNN__SHARED(double, shared);
    const size_t first = (size_t)blockIdx.x * CNN__SUM_CHUNK;
    const size_t end = n - first < CNN__SUM_CHUNK ? n : first + CNN__SUM_CHUNK;
    double sum = 0;
    for (size_t i = first + threadIdx.x; i < end; i += CNN__BLOCK)
        sum += f(i);
    sum = cnn__gpu_block_sum(sum, shared);
    if (threadIdx.x == 0)
        part[blockIdx.x] = sum;
}

struct cnn__f_double {
    const double *x;
    __device__ double operator()(size_t i) const {
        return x[i];
    }
};

struct cnn__f_float {
    const float *x;
    __device__ double operator()(size_t i) const {
        return (double)x[i];
    }
};

struct cnn__f_square {
    const float *y, *target;
    __device__ double operator()(size_t i) const {
        const double d = (double)y[i] - (double)target[i];
        return d * d;
    }
};

/* Doubles that a sum of n elements takes; the last holds the result. */
static size_t cnn__sum_parts(size_t n) {
    size_t total = 0;
    do {
        n = cnn__pieces(n, CNN__SUM_CHUNK);
        total += n;
    } while (n > 1);
    return total;
}

template <class F>
static cnn_status cnn__launch_sum(const char *where, cudaStream_t stream, F f, size_t n, double *part) {
    size_t blocks = cnn__pieces(n, CNN__SUM_CHUNK);
    CNN__RUN(where, cnn__gpu_sum<F>, (unsigned)blocks, CNN__BLOCK, CNN__BLOCK * sizeof(double), stream, f, n,
             part);
    while (blocks > 1) {
        const cnn__f_double again = {part};
        part += blocks;
        n = blocks;
        blocks = cnn__pieces(n, CNN__SUM_CHUNK);
        CNN__RUN(where, cnn__gpu_sum<cnn__f_double>, (unsigned)blocks, CNN__BLOCK,
                 CNN__BLOCK * sizeof(double), stream, again, n, part);
    }
    return CNN_OK;
}

/* The sum of f, in a call; *result is the program's. */
template <class F> static cnn_status cnn__call_sum(cnn__call *c, F f, size_t n, double *result) {
    const size_t parts = cnn__sum_parts(n);
    double *part = (double *)cnn__call_scratch(c, parts * sizeof(double));
    CNN__THEN(*c, cnn__launch_sum(c->where, c->stream, f, n, part));
    CNN__THEN(*c, cnn__cuda_check(c->where,
                                  cudaMemcpyAsync(result, part + parts - 1, sizeof *result,
                                                  cudaMemcpyDeviceToHost, c->stream),
                                  "cudaMemcpyAsync", __LINE__));
    return c->status;
}

static cnn_status cnn__cuda_squared_error_forward(const char *where, const cnn_tensor *y,
                                                  const cnn_tensor *target, double *sum) {
    cnn__call c = cnn__call_begin(where, 0);
    const cnn__f_square f = {cnn__call_tensor(&c, y, CNN__IN), cnn__call_tensor(&c, target, CNN__IN)};
    cnn__call_sum(&c, f, cnn__size(y), sum);
    return cnn__call_end(&c);
}

/* The cross-entropy of one row of logits. */
static __device__ double cnn__gpu_cross_entropy(const float *x, int classes, int label, double *max,
                                                double *sum) {
    *max = (double)x[0];
    for (int k = 1; k < classes; k++)
        *max = (double)x[k] > *max || x[k] != x[k] ? (double)x[k] : *max;
    *sum = 0;
    for (int k = 0; k < classes; k++)
        *sum += exp((double)x[k] - *max);
    return log(*sum) + (*max - (double)x[label]);
}

struct cnn__f_cross_entropy {
    const float *logits;
    const int *labels;
    int classes;
    __device__ double operator()(size_t i) const {
        double max, sum;
        return cnn__gpu_cross_entropy(logits + i * (size_t)classes, classes, labels[i], &max, &sum);
    }
};

struct cnn__f_cross_entropy_backward {
    const float *logits;
    const int *labels;
    int classes, n;
    float *dlogits;
    __device__ void operator()(size_t i) const {
        const float *x = logits + i * (size_t)classes;
        float *d = dlogits + i * (size_t)classes;
        double max, sum;
        cnn__gpu_cross_entropy(x, classes, labels[i], &max, &sum);
        for (int k = 0; k < classes; k++)
            d[k] = (float)((exp((double)x[k] - max) / sum - (k == labels[i] ? 1.0 : 0.0)) / n);
    }
};

static cnn_status cnn__cuda_cross_entropy_forward(const char *where, const cnn_tensor *logits,
                                                  const int *labels, double *loss) {
    const size_t n = (size_t)logits->n;
    double sum = 0;
    cnn__call c = cnn__call_begin(where, 0);
    const cnn__f_cross_entropy f = {cnn__call_tensor(&c, logits, CNN__IN),
                                    (const int *)cnn__call_view(&c, labels, n * sizeof(int), CNN__IN),
                                    logits->c};
    cnn__call_sum(&c, f, n, &sum);
    CNN__TRY(cnn__call_end(&c));
    *loss = sum / logits->n;
    return CNN_OK;
}

static cnn_status cnn__cuda_cross_entropy_backward(const char *where, const cnn_tensor *logits,
                                                   const int *labels, cnn_tensor *dlogits) {
    const size_t n = (size_t)logits->n;
    cnn__call c = cnn__call_begin(where, 0);
    const cnn__f_cross_entropy_backward f = {
        cnn__call_tensor(&c, logits, CNN__IN),
        (const int *)cnn__call_view(&c, labels, n * sizeof(int), CNN__IN), logits->c, logits->n,
        cnn__call_tensor(&c, dlogits, CNN__OUT)};
    CNN__THEN(c, cnn__launch_map(where, c.stream, f, n));
    return cnn__call_end(&c);
}

/* y[column] = or += the sum down rows; a block has 32 columns, CNN__SUM_ROWS rows at a time. */
static __global__ void cnn__gpu_column_sum(const float *x, int rows, int columns, int accumulate, float *y) {
    CNN__SHARED(float, shared);
    const int column = (int)blockIdx.x * 32 + (int)threadIdx.x;
    float sum = 0;
    for (int r = (int)threadIdx.y; r < rows && column < columns; r += CNN__SUM_ROWS)
        sum += x[(size_t)r * (size_t)columns + (size_t)column];
    shared[threadIdx.y * 32 + threadIdx.x] = sum;
    __syncthreads();
    if (threadIdx.y || column >= columns)
        return;
    for (int r = 1; r < CNN__SUM_ROWS; r++)
        sum += shared[r * 32 + (int)threadIdx.x];
    y[column] = accumulate ? y[column] + sum : sum;
}

/* part[slice][channel] = the sum of a channel's planes over the images of a slice, image i being in slice
   i % slices. */
static __global__ void cnn__gpu_channel_sum(const float *x, int n, int channels, int plane, float *part) {
    CNN__SHARED(double, shared);
    const int channel = (int)blockIdx.x;
    double sum = 0;
    for (int i = (int)blockIdx.y; i < n; i += (int)gridDim.y) {
        const float *at = x + ((size_t)i * (size_t)channels + (size_t)channel) * (size_t)plane;
        for (int p = (int)threadIdx.x; p < plane; p += CNN__BLOCK)
            sum += (double)at[p];
    }
    sum = cnn__gpu_block_sum(sum, shared);
    if (threadIdx.x == 0)
        part[(size_t)blockIdx.y * (size_t)channels + (size_t)channel] = (float)sum;
}

/* ---- pools ---- */

/* Division by a constant, exact for every 32-bit numerator (Granlund and Montgomery 1994). */
typedef struct cnn__div {
    unsigned d, magic;
    int first, second;
} cnn__div;

CNN__BOTH static cnn__div cnn__div_by(unsigned d) {
    cnn__div v = {d, 0, 0, 0};
    int log = 0;
    while (log < 32 && (uint64_t)1 << log < d)
        log++;
    v.magic = (unsigned)(((((uint64_t)1 << log) - d) << 32) / d + 1);
    v.first = log < 1 ? log : 1;
    v.second = log > 1 ? log - 1 : 0;
    return v;
}

static __device__ __forceinline__ unsigned cnn__quotient(unsigned n, const cnn__div &v) {
    const unsigned t = (unsigned)((uint64_t)n * v.magic >> 32);
    return (t + ((n - t) >> v.first)) >> v.second;
}

/* Images of a call at a time, so that 32 bits count their elements. */
static int cnn__images_at_once(int n, size_t elements) {
    const size_t most = elements > 0x40000000u ? 1 : 0x40000000u / elements;
    return most < (size_t)n ? (int)most : n;
}

struct cnn__f_maxpool {
    cnn__pool p;
    cnn__div by_out, by_ow;
    const float *x;
    float *y;
    int *indices;
    __device__ void operator()(size_t at) const {
        const unsigned plane = cnn__quotient((unsigned)at, by_out), i = (unsigned)at - plane * by_out.d;
        const int oh = (int)cnn__quotient(i, by_ow), ow = (int)(i - (unsigned)oh * by_ow.d);
        const cnn__window v = cnn__window_at(oh, p.h, p.kh, p.sh, p.ph, p.dh, 0);
        const cnn__window u = cnn__window_at(ow, p.w, p.kw, p.sw, p.pw, p.dw, 0);
        const float *image = x + (size_t)plane * (size_t)p.h * (size_t)p.w;
        float best = -INFINITY;
        int index = -1;
        for (int a = v.first; a < v.end; a += p.dh)
            for (int b = u.first; b < u.end; b += p.dw) {
                const float value = image[a * p.w + b];
                if (value > best || index < 0 || value != value) {
                    best = value;
                    index = a * p.w + b;
                }
            }
        y[at] = best;
        if (indices)
            indices[at] = index;
    }
};

/* The gradient where the windows are known: each element of dx looks for itself in those that hold it. */
struct cnn__f_maxpool_backward {
    cnn__pool p;
    cnn__div by_in, by_w;
    const float *dy;
    const int *indices;
    float *dx;
    __device__ void operator()(size_t at) const {
        const unsigned plane = cnn__quotient((unsigned)at, by_in), own = (unsigned)at - plane * by_in.d;
        const int i = (int)cnn__quotient(own, by_w), j = (int)(own - (unsigned)i * by_w.d);
        const size_t out = (size_t)plane * (size_t)p.oh * (size_t)p.ow;
        float sum = 0;
        for (int a = p.kh - 1; a >= 0; a--) { /* the windows in order */
            const int top = i + p.ph - a * p.dh, oh = top / p.sh;
            if (top < 0 || oh * p.sh != top || oh >= p.oh)
                continue;
            for (int b = p.kw - 1; b >= 0; b--) {
                const int left = j + p.pw - b * p.dw, ow = left / p.sw;
                if (left < 0 || ow * p.sw != left || ow >= p.ow)
                    continue;
                const size_t from = out + (size_t)(oh * p.ow + ow);
                sum += indices[from] == (int)own ? dy[from] : 0.0f;
            }
        }
        dx[at] = sum;
    }
};

struct cnn__f_avgpool {
    cnn__pool p;
    cnn__div by_out, by_ow;
    const float *x;
    float *y;
    __device__ void operator()(size_t at) const {
        const unsigned plane = cnn__quotient((unsigned)at, by_out), i = (unsigned)at - plane * by_out.d;
        const int oh = (int)cnn__quotient(i, by_ow), ow = (int)(i - (unsigned)oh * by_ow.d);
        const cnn__window v = cnn__window_at(oh, p.h, p.kh, p.sh, p.ph, 1, p.exclude_padding);
        const cnn__window u = cnn__window_at(ow, p.w, p.kw, p.sw, p.pw, 1, p.exclude_padding);
        const float *image = x + (size_t)plane * (size_t)p.h * (size_t)p.w;
        float sum = 0;
        for (int a = v.first; a < v.end; a++)
            for (int b = u.first; b < u.end; b++)
                sum += image[a * p.w + b];
        y[at] = sum / ((float)v.counted * (float)u.counted);
    }
};

struct cnn__f_avgpool_backward {
    cnn__pool p;
    cnn__div by_in, by_w;
    const float *dy;
    float *dx;
    __device__ void operator()(size_t at) const {
        const unsigned plane = cnn__quotient((unsigned)at, by_in), own = (unsigned)at - plane * by_in.d;
        const int i = (int)cnn__quotient(own, by_w), j = (int)(own - (unsigned)i * by_w.d);
        const float *from = dy + (size_t)plane * (size_t)p.oh * (size_t)p.ow;
        const int top = i + p.ph - p.kh + 1, left = j + p.pw - p.kw + 1;
        const int last_h = (i + p.ph) / p.sh, last_w = (j + p.pw) / p.sw;
        float sum = 0;
        for (int oh = top > 0 ? (top + p.sh - 1) / p.sh : 0; oh <= last_h && oh < p.oh; oh++) {
            const cnn__window v = cnn__window_at(oh, p.h, p.kh, p.sh, p.ph, 1, p.exclude_padding);
            for (int ow = left > 0 ? (left + p.sw - 1) / p.sw : 0; ow <= last_w && ow < p.ow; ow++) {
                const cnn__window u = cnn__window_at(ow, p.w, p.kw, p.sw, p.pw, 1, p.exclude_padding);
                sum += from[oh * p.ow + ow] / ((float)v.counted * (float)u.counted);
            }
        }
        dx[at] = sum;
    }
};

/* dx[indices[i]] += dy[i] within each plane, a block each, in the order of i; the windows are not known, so
   any element may meet any other. Of CNN__BLOCK outputs at a time, the first that goes to an element adds up
   for all of them. */
static __global__ void cnn__gpu_maxpool_scatter(const float *dy, const int *indices, unsigned in,
                                                unsigned out, float *dx) {
    CNN__SHARED(int, to);
    float *values = (float *)(to + CNN__BLOCK);
    const unsigned t = threadIdx.x;
    const size_t plane = blockIdx.x;
    dx += plane * in;
    dy += plane * out;
    indices += plane * out;
    for (unsigned i = t; i < in; i += CNN__BLOCK)
        dx[i] = 0;
    for (unsigned first = 0; first < out; first += CNN__BLOCK) {
        const unsigned count = out - first < CNN__BLOCK ? out - first : (unsigned)CNN__BLOCK;
        __syncthreads();
        if (t < count) {
            to[t] = indices[first + t];
            values[t] = dy[first + t];
        }
        __syncthreads();
        if (t >= count || to[t] < 0)
            continue;
        int earlier = 0;
        for (unsigned k = 0; k < t && !earlier; k++)
            earlier = to[k] == to[t];
        if (earlier)
            continue;
        float sum = dx[to[t]];
        for (unsigned k = t; k < count; k++)
            sum += to[k] == to[t] ? values[k] : 0.0f;
        dx[to[t]] = sum;
    }
}

static cnn_status cnn__launch_maxpool(const char *where, cudaStream_t stream, const cnn__pool *p, int n,
                                      int c, const float *x, float *y, int *indices) {
    const size_t in = (size_t)p->h * (size_t)p->w, out = (size_t)p->oh * (size_t)p->ow;
    const int at_once = cnn__images_at_once(n, (size_t)c * out);
    for (int i = 0; i < n; i += at_once) {
        const size_t at = (size_t)i * (size_t)c;
        const cnn__f_maxpool f = {
            *p,           cnn__div_by((unsigned)out),         cnn__div_by((unsigned)p->ow), x + at * in,
            y + at * out, indices ? indices + at * out : NULL};
        CNN__TRY(cnn__launch_map(where, stream, f, (size_t)cnn__min(at_once, n - i) * (size_t)c * out));
    }
    return CNN_OK;
}

static cnn_status cnn__launch_maxpool_backward(const char *where, cudaStream_t stream, const cnn__pool *p,
                                               int n, int c, const float *dy, const int *indices, float *dx) {
    const size_t in = (size_t)p->h * (size_t)p->w, out = (size_t)p->oh * (size_t)p->ow;
    const int at_once = cnn__images_at_once(n, (size_t)c * in);
    for (int i = 0; i < n; i += at_once) {
        const size_t at = (size_t)i * (size_t)c;
        const cnn__f_maxpool_backward f = {*p,
                                           cnn__div_by((unsigned)in),
                                           cnn__div_by((unsigned)p->w),
                                           dy + at * out,
                                           indices + at * out,
                                           dx + at * in};
        CNN__TRY(cnn__launch_map(where, stream, f, (size_t)cnn__min(at_once, n - i) * (size_t)c * in));
    }
    return CNN_OK;
}

static cnn_status cnn__launch_avgpool(const char *where, cudaStream_t stream, const cnn__pool *p, int n,
                                      int c, const float *x, float *y) {
    const size_t in = (size_t)p->h * (size_t)p->w, out = (size_t)p->oh * (size_t)p->ow;
    const int at_once = cnn__images_at_once(n, (size_t)c * out);
    for (int i = 0; i < n; i += at_once) {
        const size_t at = (size_t)i * (size_t)c;
        const cnn__f_avgpool f = {*p, cnn__div_by((unsigned)out), cnn__div_by((unsigned)p->ow), x + at * in,
                                  y + at * out};
        CNN__TRY(cnn__launch_map(where, stream, f, (size_t)cnn__min(at_once, n - i) * (size_t)c * out));
    }
    return CNN_OK;
}

static cnn_status cnn__launch_avgpool_backward(const char *where, cudaStream_t stream, const cnn__pool *p,
                                               int n, int c, const float *dy, float *dx) {
    const size_t in = (size_t)p->h * (size_t)p->w, out = (size_t)p->oh * (size_t)p->ow;
    const int at_once = cnn__images_at_once(n, (size_t)c * in);
    for (int i = 0; i < n; i += at_once) {
        const size_t at = (size_t)i * (size_t)c;
        const cnn__f_avgpool_backward f = {*p, cnn__div_by((unsigned)in), cnn__div_by((unsigned)p->w),
                                           dy + at * out, dx + at * in};
        CNN__TRY(cnn__launch_map(where, stream, f, (size_t)cnn__min(at_once, n - i) * (size_t)c * in));
    }
    return CNN_OK;
}

/* A plane, or one image's share of one, must be counted in 31 bits. */
static cnn_status cnn__check_planes(const char *where, const cnn_tensor *t) {
    return (size_t)t->h * (size_t)t->w <= 0x40000000u && (size_t)t->n * (size_t)t->c <= INT_MAX
               ? CNN_OK
               : cnn__fail(CNN_ERR_SHAPE, "%s: %dx%d planes of %dx%d are too large for one call", where, t->n,
                           t->c, t->h, t->w);
}

static cnn_status cnn__cuda_maxpool2d_forward(const char *where, const cnn__pool *p, const cnn_tensor *x,
                                              cnn_tensor *y, int *indices) {
    CNN__TRY(cnn__check_planes(where, x));
    cnn__call c = cnn__call_begin(where, 0);
    const float *from = cnn__call_tensor(&c, x, CNN__IN);
    float *to = cnn__call_tensor(&c, y, CNN__OUT);
    int *index = (int *)cnn__call_view(&c, indices, cnn__size(y) * sizeof(int), CNN__OUT);
    CNN__THEN(c, cnn__launch_maxpool(where, c.stream, p, x->n, x->c, from, to, index));
    return cnn__call_end(&c);
}

static cnn_status cnn__launch_scatter(const char *where, cudaStream_t stream, const cnn_tensor *dy,
                                      const cnn_tensor *dx, const float *from, const int *index, float *to) {
    CNN__RUN(where, cnn__gpu_maxpool_scatter, (unsigned)(dx->n * dx->c), CNN__BLOCK, CNN__BLOCK * 8, stream,
             from, index, (unsigned)(dx->h * dx->w), (unsigned)(dy->h * dy->w), to);
    return CNN_OK;
}

static cnn_status cnn__cuda_maxpool2d_backward(const char *where, const cnn_tensor *dy, const int *indices,
                                               cnn_tensor *dx) {
    CNN__TRY(cnn__check_planes(where, dx));
    CNN__TRY(cnn__check_planes(where, dy));
    cnn__call c = cnn__call_begin(where, 0);
    const float *from = cnn__call_tensor(&c, dy, CNN__IN);
    const int *index = (const int *)cnn__call_view(&c, indices, cnn__size(dy) * sizeof(int), CNN__IN);
    float *to = cnn__call_tensor(&c, dx, CNN__OUT);
    CNN__THEN(c, cnn__launch_scatter(where, c.stream, dy, dx, from, index, to));
    return cnn__call_end(&c);
}

static cnn_status cnn__cuda_avgpool2d_forward(const char *where, const cnn__pool *p, const cnn_tensor *x,
                                              cnn_tensor *y) {
    CNN__TRY(cnn__check_planes(where, x));
    cnn__call c = cnn__call_begin(where, 0);
    const float *from = cnn__call_tensor(&c, x, CNN__IN);
    float *to = cnn__call_tensor(&c, y, CNN__OUT);
    CNN__THEN(c, cnn__launch_avgpool(where, c.stream, p, x->n, x->c, from, to));
    return cnn__call_end(&c);
}

static cnn_status cnn__cuda_avgpool2d_backward(const char *where, const cnn__pool *p, const cnn_tensor *dy,
                                               cnn_tensor *dx) {
    CNN__TRY(cnn__check_planes(where, dx));
    cnn__call c = cnn__call_begin(where, 0);
    const float *from = cnn__call_tensor(&c, dy, CNN__IN);
    float *to = cnn__call_tensor(&c, dx, CNN__OUT);
    CNN__THEN(c, cnn__launch_avgpool_backward(where, c.stream, p, dx->n, dx->c, from, to));
    return cnn__call_end(&c);
}

/* ---- products ----

   One kernel multiplies, y[m][n] = sum over k of a(m, k) * b(k, n), in tiles of BM x BN that a block keeps in
   registers, TM x TN a thread; the factors pass through shared memory BK steps at a time, copied there while
   the steps before are multiplied.
     A factor says where it comes from: a matrix whose rows (cnn__by_row) or columns (cnn__by_k) lie along k;
   the image of a convolution, read in place as the matrix of its shifted copies (cnn__look, cnn__look_k). Its
   fetch copies a tile. BY_K: to [i][k] in shared memory, otherwise to [k][i]. What lies beyond a factor is 0.
     A problem P has m rows, n columns, the steps k_first to k_end and two factors; enter(group, slice), which
   moves its pointers; finished(m, n, value), where there is a bias or an activation, then out(n) and
   put(out, m, value); vector: put4 takes four columns at once, put2 two. */

/* To 10 bits of fraction, halves away from zero, as the conversion of the hardware does; the bits below them,
   which tensor cores ignore, are left as they come. */
static __device__ __forceinline__ unsigned cnn__tf32(float x) {
    unsigned u = __float_as_uint(x);
    if (fabsf(x) < INFINITY)
        u += 0x1000u;
    return u;
}

/* Of a kernel element: how far it looks from where a pixel's window begins. */
typedef struct __align__(16) cnn__offset {
    int at, i, j;
}
cnn__offset;

/* Element (k, i) is from[k*pitch + i], i < width. vector: all that are multiples of four floats. */
struct cnn__by_row {
    enum { ROUNDED = 0 }; /* to TF32 */
    const float *from;
    ptrdiff_t pitch;
    unsigned width;
    int vector;

    template <int WIDTH, int BK, int THREADS, int PITCH> struct fetch {
        enum { TABLE = 0 };
        unsigned first;

        __device__ __forceinline__ void begin(const cnn__by_row &, unsigned i0, unsigned, cnn__offset *) {
            first = i0;
        }
        __device__ __forceinline__ void look_up(const cnn__by_row &, unsigned, unsigned, cnn__offset *) {
        }
        __device__ __forceinline__ void copy(const cnn__by_row &v, unsigned k0, unsigned end,
                                             const cnn__offset *, float *to) const {
            const unsigned t = threadIdx.x;
            if (v.vector) {
                enum { ROW = WIDTH / 4, STEP = THREADS / ROW, COUNT = (BK + STEP - 1) / STEP };
                const unsigned i = t % ROW * 4, k = t / ROW;
                const bool inside = first + i < v.width && (BK % STEP == 0 || k < BK);
                const float *from = v.from + (ptrdiff_t)(k0 + k) * v.pitch + (first + i);
                CNN__GPU_UNROLL
                for (unsigned c = 0; c < COUNT; c++)
                    if (BK % STEP == 0 || k < BK)
                        cnn__copy4(to + (k + c * STEP) * PITCH + i, from + (ptrdiff_t)(c * STEP) * v.pitch,
                                   inside && k0 + k + c * STEP < end);
            } else {
                enum { STEP = THREADS / WIDTH, LANES = STEP ? WIDTH : THREADS, ROWS = STEP ? STEP : 1 };
                CNN__GPU_UNROLL4
                for (unsigned c = 0; c < BK / ROWS; c++) {
                    for (unsigned i = t % LANES; i < WIDTH; i += LANES) {
                        const unsigned k = t / LANES + c * ROWS;
                        cnn__copy(to + k * PITCH + i, v.from + (ptrdiff_t)(k0 + k) * v.pitch + (first + i),
                                  first + i < v.width && k0 + k < end);
                    }
                }
            }
        }
    };
    enum { BY_K = 0 };
};

/* Packed for tensor cores: blocks of 8 steps by 16 rows, of four floats for each lane of a warp, see
   cnn__mma_tf32: rows g and g + 8 at step 2*l, then at 2*l + 1, lane being 4*g + l. The order of steps is
   free, if both factors have the same. pitch: floats of 8 steps. */
struct cnn__by_fragment : cnn__by_row {
    enum { BY_K = 2 };
    template <int WIDTH, int BK, int THREADS, int PITCH> struct fetch {
        enum { TABLE = 0 };
        unsigned first;

        __device__ __forceinline__ void begin(const cnn__by_fragment &, unsigned i0, unsigned,
                                              cnn__offset *) {
            first = i0 * 8;
        }
        __device__ __forceinline__ void look_up(const cnn__by_fragment &, unsigned, unsigned, cnn__offset *) {
        }
        __device__ __forceinline__ void copy(const cnn__by_fragment &v, unsigned k0, unsigned,
                                             const cnn__offset *, float *to) const {
            CNN__GPU_UNROLL
            for (unsigned c = 0; c < WIDTH * BK / 4 / THREADS; c++) {
                const unsigned at = (threadIdx.x + c * THREADS) * 4, i = first + at % (WIDTH * 8);
                cnn__copy4(to + at, v.from + (ptrdiff_t)(k0 / 8 + at / (WIDTH * 8)) * v.pitch + i,
                           i < v.width * 8);
            }
        }
    };
};

/* Element (i, k) is from[q*image + i*pitch + p], i < width, k being pixel p of image q. */
struct cnn__by_k {
    enum { ROUNDED = 0 };
    const float *from;
    ptrdiff_t pitch, image;
    cnn__div by_plane;
    unsigned width;
    int vector;

    __device__ __forceinline__ const float *at(unsigned k) const {
        const unsigned q = cnn__quotient(k, by_plane);
        return from + (ptrdiff_t)q * image + (k - q * by_plane.d);
    }
    template <int WIDTH, int BK, int THREADS, int PITCH> struct fetch {
        enum { TABLE = 0 };
        unsigned first;

        __device__ __forceinline__ void begin(const cnn__by_k &, unsigned i0, unsigned, cnn__offset *) {
            first = i0;
        }
        __device__ __forceinline__ void look_up(const cnn__by_k &, unsigned, unsigned, cnn__offset *) {
        }
        template <int N>
        __device__ __forceinline__ void copy_by(const cnn__by_k &v, unsigned k0, unsigned end,
                                                float *to) const {
            enum { STEP = THREADS * N / BK, COUNT = (WIDTH + STEP - 1) / STEP };
            const unsigned k = threadIdx.x % (BK / N) * N, i = threadIdx.x / (BK / N);
            const bool inside = k0 + k < end;
            const float *from = v.at(k0 + k) + (ptrdiff_t)(first + i) * v.pitch;
            CNN__GPU_UNROLL4
            for (unsigned c = 0; c < COUNT; c++) {
                const bool ok = inside && first + i + c * STEP < v.width;
                if (WIDTH % STEP && i + c * STEP >= WIDTH)
                    continue;
                if (N == 4)
                    cnn__copy4(to + (i + c * STEP) * PITCH + k, from + (ptrdiff_t)(c * STEP) * v.pitch, ok);
                else
                    cnn__copy(to + (i + c * STEP) * PITCH + k, from + (ptrdiff_t)(c * STEP) * v.pitch, ok);
            }
        }
        __device__ __forceinline__ void copy(const cnn__by_k &v, unsigned k0, unsigned end,
                                             const cnn__offset *, float *to) const {
            if (v.vector)
                copy_by<4>(v, k0, end, to);
            else
                copy_by<1>(v, k0, end, to);
        }
    };
    enum { BY_K = 1 };
};

/* Where the tiles of a problem lie in shared memory, in floats; SPARE puts what a warp reads at once into
   different banks. BY_K of 2: without gaps. */
template <class P, int BM, int BN, int BK, int THREADS, int SPARE> struct cnn__tiles {
    enum {
        A_BY_K = P::a_t::BY_K,
        B_BY_K = P::b_t::BY_K,
        A_PITCH = A_BY_K > 0 ? BK + 4 : BM + SPARE,
        B_PITCH = B_BY_K == 2  ? BK
                  : B_BY_K > 0 ? BK + 4
                               : BN + SPARE,
        A = A_BY_K == 2 ? BM * BK : A_PITCH * (A_BY_K > 0 ? BM : BK),
        B = B_PITCH * (B_BY_K > 0 ? BN : BK)
    };
    typedef typename P::a_t::template fetch<BM, BK, THREADS, A_PITCH> a_fetch;
    typedef typename P::b_t::template fetch<BN, BK, THREADS, B_PITCH> b_fetch;
    typename P::a_t const &from_a;
    typename P::b_t const &from_b;
    a_fetch a;
    b_fetch b;
    float *to;
    cnn__offset *table;
    unsigned k, end; /* to be copied next */

    static constexpr size_t bytes(int stages) {
        return (size_t)stages * (A + B) * sizeof(float) + b_fetch::TABLE * sizeof(cnn__offset);
    }
    __device__ __forceinline__ cnn__tiles(const P &p, unsigned m0, unsigned n0, float *shared, int stages)
        : from_a(p.a), from_b(p.b), to(shared), table((cnn__offset *)(void *)(shared + stages * (A + B))),
          k(p.k_first), end(p.k_end) {
        a.begin(p.a, m0, end, table);
        b.begin(p.b, n0, end, table);
        b.look_up(p.b, k, end, table);
    }
    /* The next steps to a stage, past a barrier. */
    __device__ __forceinline__ void copy(int stage, int turn) {
        if (k < end) {
            float *const at = to + stage * (A + B);
            a.copy(from_a, k, end, table, at);
            b.copy(from_b, k, end, table + (b_fetch::TABLE == 2 * BK && turn ? (int)BK : 0), at + A);
            k += BK;
            b.look_up(from_b, k, end, table + (b_fetch::TABLE == 2 * BK && !turn ? (int)BK : 0));
        }
        cnn__gpu_copies_end();
    }
};

/* A warp's threads are 4 x 8, in an order in which neighbours read the same: its share is 4*TM x 8*TN. */
template <class P, int BM, int BN, int TM, int TN>
static __global__ void __launch_bounds__(BM *BN / (TM * TN), 512 * TM * TN / (BM * BN))
    cnn__gpu_product(P p) {
    enum { BK = CNN__STEP, THREADS = BM * BN / (TM * TN), WARPS_N = BN / (8 * TN) };
    typedef cnn__tiles<P, BM, BN, BK, THREADS, 4> tiles;
    CNN__SHARED(float, shared);
    p.enter((int)blockIdx.y, (int)blockIdx.z);
    const unsigned across = (unsigned)((p.m + BM - 1) / BM);
    const int m0 = (int)(blockIdx.x % across) * BM;
    const unsigned n0 = blockIdx.x / across * BN;
    if (n0 >= p.n)
        return;
    const int warp = (int)threadIdx.x / 32, lane = (int)threadIdx.x % 32;
    const int ty = lane / 16 * 2 + lane % 2, tx = lane % 16 / 2;
    const int mw = warp / WARPS_N * 4 * TM, nw = warp % WARPS_N * 8 * TN;
    const int ma = mw + (tiles::A_BY_K ? ty : ty * 4), nb = nw + (tiles::B_BY_K ? tx : tx * 4);
    tiles f(p, (unsigned)m0, n0, shared, 2);
    float sum[TM][TN];
    CNN__GPU_UNROLL
    for (int i = 0; i < TM; i++) {
        CNN__GPU_UNROLL
        for (int j = 0; j < TN; j++)
            sum[i][j] = 0;
    }
    __syncthreads();
    f.copy(0, 0);
    int side = 0;
    for (unsigned k0 = p.k_first; k0 < p.k_end; k0 += BK) {
        cnn__gpu_copies_wait<0>();
        __syncthreads();
        f.copy(side ^ 1, side ^ 1); /* to the side that was last read before the barrier */
        const float *as = shared + side * (tiles::A + tiles::B), *bs = as + tiles::A;
        as += tiles::A_BY_K ? ma * tiles::A_PITCH : ma;
        bs += tiles::B_BY_K ? nb * tiles::B_PITCH : nb;
        CNN__GPU_UNROLL
        for (int k = 0; k < BK; k += 4) {
            float4 rows[tiles::A_BY_K ? TM : 1];
            rows[0] = make_float4(0, 0, 0, 0); /* lest it seem to be read without */
            CNN__GPU_UNROLL
            for (int i = 0; tiles::A_BY_K && i < TM; i++)
                rows[i] = *(const float4 *)(as + i * 4 * tiles::A_PITCH + k);
            CNN__GPU_UNROLL
            for (int j = 0; tiles::B_BY_K && j < TN; j++) {
                const float4 b = *(const float4 *)(bs + j * 8 * tiles::B_PITCH + k);
                CNN__GPU_UNROLL
                for (int i = 0; i < TM; i++) {
                    const float4 a = rows[tiles::A_BY_K ? i : 0];
                    sum[i][j] = fmaf(a.w, b.w, fmaf(a.z, b.z, fmaf(a.y, b.y, fmaf(a.x, b.x, sum[i][j]))));
                }
            }
            CNN__GPU_UNROLL
            for (int e = 0; !tiles::B_BY_K && e < 4; e++) {
                float a[TM], b[TN];
                CNN__GPU_UNROLL
                for (int i = 0; i < TM; i++) {
                    const float4 v = rows[tiles::A_BY_K ? i : 0];
                    a[i] = e == 0 ? v.x : e == 1 ? v.y : e == 2 ? v.z : v.w;
                }
                CNN__GPU_UNROLL
                for (int i = 0; !tiles::A_BY_K && i < TM; i += 4)
                    cnn__gpu_take4(as + (k + e) * tiles::A_PITCH + i / 4 * 16, a + i);
                CNN__GPU_UNROLL
                for (int j = 0; j < TN; j += 4)
                    cnn__gpu_take4(bs + (k + e) * tiles::B_PITCH + j / 4 * 32, b + j);
                CNN__GPU_UNROLL
                for (int i = 0; i < TM; i++) {
                    CNN__GPU_UNROLL
                    for (int j = 0; j < TN; j++)
                        sum[i][j] = fmaf(a[i], b[j], sum[i][j]);
                }
            }
        }
        side ^= 1;
    }
    const bool finish = p.bias || p.activation;
    CNN__GPU_UNROLL
    for (int j = 0; finish && j < TN; j++) {
        CNN__GPU_UNROLL
        for (int i = 0; i < TM; i++)
            sum[i][j] =
                p.finished(m0 + ma + (tiles::A_BY_K ? 4 * i : i / 4 * 16 + i % 4),
                           n0 + (unsigned)(nb + (tiles::B_BY_K ? 8 * j : j / 4 * 32 + j % 4)), sum[i][j]);
    }
    CNN__GPU_UNROLL
    for (int j = 0; !tiles::B_BY_K && p.vector && j < TN; j += 4) {
        const unsigned n = n0 + (unsigned)(nb + j / 4 * 32);
        if (n >= p.n)
            continue;
        const typename P::out_t out = p.out(n);
        CNN__GPU_UNROLL
        for (int i = 0; i < TM; i++) {
            const int m = m0 + ma + (tiles::A_BY_K ? 4 * i : i / 4 * 16 + i % 4);
            if (m < p.m)
                p.put4(out, m, make_float4(sum[i][j], sum[i][j + 1], sum[i][j + 2], sum[i][j + 3]));
        }
    }
    if (!tiles::B_BY_K && p.vector)
        return;
    CNN__GPU_UNROLL
    for (int j = 0; j < TN; j++) {
        const unsigned n = n0 + (unsigned)(nb + (tiles::B_BY_K ? 8 * j : j / 4 * 32 + j % 4));
        if (n >= p.n)
            continue;
        const typename P::out_t out = p.out(n);
        CNN__GPU_UNROLL
        for (int i = 0; i < TM; i++) {
            const int m = m0 + ma + (tiles::A_BY_K ? 4 * i : i / 4 * 16 + i % 4);
            if (m < p.m)
                p.put(out, m, sum[i][j]);
        }
    }
}

/* The same product on tensor cores: a warp's share is MT by NT products of 16x8 by 8x8, a block has WM x WN
   warps. BY_K of 2: the factors come as the warps want them. */
template <class P, int MT, int NT, int WM, int WN> struct cnn__tensor_tiles {
    enum {
        OWN = P::a_t::BY_K == 2,
        ROUNDED = OWN || P::a_t::ROUNDED,
        BM = WM * MT * 16,
        BN = WN * NT * 8,
        BK = ROUNDED ? CNN__STEP_TF32 : CNN__STEP,
        THREADS = 32 * WM * WN,
        STAGES = ROUNDED && (!OWN || BM + BN > 256) ? 2 : 3
    };
    typedef cnn__tiles<P, BM, BN, BK, THREADS, 8> tiles;
};

template <class P, int MT, int NT, int WM, int WN>
static __global__ void __launch_bounds__(32 * WM * WN, 2) cnn__gpu_product_tf32(P p) {
    typedef cnn__tensor_tiles<P, MT, NT, WM, WN> v;
    typedef typename v::tiles tiles;
    enum { BM = v::BM, BN = v::BN, BK = v::BK, STAGES = v::STAGES, OWN = v::OWN, ROUNDED = v::ROUNDED };
    CNN__SHARED(float, shared);
    p.enter((int)blockIdx.y, (int)blockIdx.z);
    const unsigned across = (unsigned)((p.m + BM - 1) / BM);
    const int m0 = (int)(blockIdx.x % across) * BM;
    const unsigned n0 = blockIdx.x / across * BN;
    if (n0 >= p.n)
        return;
    const int warp = (int)threadIdx.x / 32, lane = (int)threadIdx.x % 32, g = lane / 4, lk = lane % 4;
    const int wm = warp / WN * MT * 16, wn = warp % WN * NT * 8;
    tiles f(p, (unsigned)m0, n0, shared, STAGES);
    float sum[MT][NT][4];
    CNN__GPU_UNROLL
    for (int i = 0; i < MT; i++) {
        CNN__GPU_UNROLL
        for (int j = 0; j < NT; j++)
            sum[i][j][0] = sum[i][j][1] = sum[i][j][2] = sum[i][j][3] = 0;
    }
    for (int stage = 0; stage < STAGES - 1; stage++) {
        __syncthreads();
        f.copy(stage, stage & 1);
    }
    int stage = 0, turn = (STAGES - 1) & 1;
    for (unsigned k0 = p.k_first; k0 < p.k_end; k0 += BK) {
        cnn__gpu_copies_wait<STAGES - 2>();
        __syncthreads();
        f.copy(stage ? stage - 1 : STAGES - 1, turn); /* to the stage that was last read before the barrier */
        turn ^= 1;
        const float *as = shared + stage * (tiles::A + tiles::B), *bs = as + tiles::A;
        CNN__GPU_UNROLL
        for (int k = 0; k < BK; k += 8) {
            unsigned a[MT][4], b[NT][2];
            CNN__GPU_UNROLL
            for (int i = 0; i < MT; i++) {
                if (OWN) {
                    const float *from = as + ((k / 8 * BM + wm) / 16 + i) * 128 + lane * 4;
                    const uint4 u = *(const uint4 *)(const void *)from;
                    a[i][0] = u.x;
                    a[i][1] = u.y;
                    a[i][2] = u.z;
                    a[i][3] = u.w;
                }
                CNN__GPU_UNROLL
                for (int e = 0; !OWN && e < 4; e++) {
                    const int m = wm + i * 16 + e % 2 * 8 + g, s = k + e / 2 * 4 + lk;
                    const float x = as[tiles::A_BY_K > 0 ? m * tiles::A_PITCH + s : s * tiles::A_PITCH + m];
                    a[i][e] = ROUNDED ? __float_as_uint(x) : cnn__tf32(x);
                }
            }
            CNN__GPU_UNROLL
            for (int j = 0; j < NT; j++) {
                const int n = wn + j * 8 + g;
                if (OWN) { /* step k + 2*lk, see cnn__look_inner */
                    const float *from = bs + n * BK + (((k / 4) ^ (g % 4 * 2)) + lk / 2) * 4 + lk % 2 * 2;
                    const uint2 u = *(const uint2 *)(const void *)from;
                    b[j][0] = u.x;
                    b[j][1] = u.y;
                }
                CNN__GPU_UNROLL
                for (int e = 0; !OWN && e < 2; e++) {
                    const int s = k + e * 4 + lk;
                    const float x = bs[tiles::B_BY_K > 0 ? n * tiles::B_PITCH + s : s * tiles::B_PITCH + n];
                    b[j][e] = ROUNDED ? __float_as_uint(x) : cnn__tf32(x);
                }
            }
            CNN__GPU_UNROLL
            for (int i = 0; i < MT; i++) {
                CNN__GPU_UNROLL
                for (int j = 0; j < NT; j++)
                    cnn__mma_tf32(sum[i][j], a[i], b[j]);
            }
        }
        stage = stage == STAGES - 1 ? 0 : stage + 1;
    }
    const bool finish = p.bias || p.activation;
    CNN__GPU_UNROLL
    for (int j = 0; finish && j < 2 * NT; j++) {
        CNN__GPU_UNROLL
        for (int i = 0; i < 2 * MT; i++) {
            float *const value = &sum[i / 2][j / 2][i % 2 * 2 + j % 2];
            *value = p.finished(m0 + wm + i / 2 * 16 + i % 2 * 8 + g,
                                n0 + (unsigned)(wn + j / 2 * 8 + 2 * lk + j % 2), *value);
        }
    }
    CNN__GPU_UNROLL
    for (int j = 0; p.vector && j < NT; j++) {
        const unsigned n = n0 + (unsigned)(wn + j * 8 + 2 * lk);
        if (n >= p.n)
            continue;
        const typename P::out_t out = p.out(n);
        CNN__GPU_UNROLL
        for (int i = 0; i < 2 * MT; i++) {
            const int m = m0 + wm + i / 2 * 16 + i % 2 * 8 + g;
            if (m < p.m)
                p.put2(out, m, make_float2(sum[i / 2][j][i % 2 * 2], sum[i / 2][j][i % 2 * 2 + 1]));
        }
    }
    if (p.vector)
        return;
    CNN__GPU_UNROLL
    for (int j = 0; j < 2 * NT; j++) {
        const unsigned n = n0 + (unsigned)(wn + j / 2 * 8 + 2 * lk + j % 2);
        if (n >= p.n)
            continue;
        const typename P::out_t out = p.out(n);
        CNN__GPU_UNROLL
        for (int i = 0; i < 2 * MT; i++) {
            const int m = m0 + wm + i / 2 * 16 + i % 2 * 8 + g;
            if (m < p.m)
                p.put(out, m, sum[i / 2][j / 2][i % 2 * 2 + j % 2]);
        }
    }
}

static unsigned cnn__tile_count(int m, unsigned n, int bm, int bn) {
    return (unsigned)((m + bm - 1) / bm) * ((n + (unsigned)bn - 1) / (unsigned)bn);
}

template <class P, int BM, int BN, int TM, int TN>
static cnn_status cnn__launch_tiles(const char *where, cudaStream_t stream, const P &p, int m, unsigned n,
                                    int groups, int slices) {
    enum { THREADS = BM * BN / (TM * TN) };
    const dim3 grid(cnn__tile_count(m, n, BM, BN), (unsigned)groups, (unsigned)slices);
    const size_t shared = cnn__tiles<P, BM, BN, CNN__STEP, THREADS, 4>::bytes(2);
    CNN__RUN(where, (cnn__gpu_product<P, BM, BN, TM, TN>), grid, THREADS, shared, stream, p);
    return CNN_OK;
}

template <class P, int MT, int NT, int WM, int WN>
static cnn_status cnn__launch_tiles_tf32(const char *where, cudaStream_t stream, const P &p, int m,
                                         unsigned n, int groups, int slices) {
    typedef cnn__tensor_tiles<P, MT, NT, WM, WN> v;
    const dim3 grid(cnn__tile_count(m, n, v::BM, v::BN), (unsigned)groups, (unsigned)slices);
    const size_t shared = v::tiles::bytes(v::STAGES);
    CNN__CUDA(where, cudaFuncSetAttribute((cnn__gpu_product_tf32<P, MT, NT, WM, WN>),
                                          cudaFuncAttributeMaxDynamicSharedMemorySize, (int)shared));
    CNN__RUN(where, (cnn__gpu_product_tf32<P, MT, NT, WM, WN>), grid, v::THREADS, shared, stream, p);
    return CNN_OK;
}

/* Tiles of the product kernel, and how many run at once on a GPU with 132 multiprocessors. */
typedef struct cnn__tile_kind {
    int m, n, at_once;
    float speed; /* of a multiply-add in it, the largest being 1 */
} cnn__tile_kind;

static const cnn__tile_kind cnn__tile_kinds[] = {
    {128, 128, 264, 1.0f}, {64, 128, 528, 0.95f}, {64, 64, 528, 0.75f}, {16, 256, 528, 0.5f}};

/* The kind that takes least time: rounds of as many tiles as run at once, parts of tiles that lie outside. */
static int cnn__tile_pick(int m, unsigned n, int batch) {
    int best = 0;
    double least = 0;
    for (int i = 0; i < 4; i++) {
        const cnn__tile_kind *v = &cnn__tile_kinds[i];
        const double tiles = (double)cnn__tile_count(m, n, v->m, v->n) * batch;
        const double rounds = tiles < v->at_once ? 1 : tiles / v->at_once + 0.5;
        const double time = rounds * v->at_once * v->m * v->n / v->speed;
        if (!i || time < least) {
            least = time;
            best = i;
        }
    }
    return best;
}

static int cnn__tf32_wanted(int m, unsigned n) {
    return cnn__gpu.tf32 && cnn__gpu.architecture >= 800 && m > 32 && n > 64;
}

template <class P>
static cnn_status cnn__launch_product_tf32(const char *where, cudaStream_t stream, const P &p, int m,
                                           unsigned n, int groups, int slices) {
    if (m <= 64)
        return cnn__launch_tiles_tf32<P, 4, 8, 1, 4>(where, stream, p, m, n, groups, slices);
    return cnn__launch_tiles_tf32<P, 4, 8, 2, 2>(where, stream, p, m, n, groups, slices);
}

/* n: the most columns that any slice has. The order of a sum is the same in tiles of all kinds. */
template <class P>
static cnn_status cnn__launch_product_plain(const char *where, cudaStream_t stream, const P &p, int m,
                                            unsigned n, int groups, int slices) {
    switch (cnn__tile_pick(m, n, groups * slices)) {
    case 0:
        return cnn__launch_tiles<P, 128, 128, 8, 8>(where, stream, p, m, n, groups, slices);
    case 1:
        return cnn__launch_tiles<P, 64, 128, 8, 8>(where, stream, p, m, n, groups, slices);
    case 2:
        return cnn__launch_tiles<P, 64, 64, 8, 4>(where, stream, p, m, n, groups, slices);
    default:
        return cnn__launch_tiles<P, 16, 256, 4, 8>(where, stream, p, m, n, groups, slices);
    }
}

template <class P>
static cnn_status cnn__launch_product(const char *where, cudaStream_t stream, const P &p, int m, unsigned n,
                                      int groups, int slices) {
    if (cnn__tf32_wanted(m, n))
        return cnn__launch_product_tf32(where, stream, p, m, n, groups, slices);
    return cnn__launch_product_plain(where, stream, p, m, n, groups, slices);
}

/* ---- linear layers ---- */

/* Of each group y[m*ym + n] = sum over k of a(m, k) * b(k, n), with bias[n] and the activation, if wanted;
   otherwise added to y, if wanted. Slices of k go to arrays of y of their own. */
template <class A, class B> struct cnn__matrix {
    typedef A a_t;
    typedef B b_t;
    typedef ptrdiff_t out_t;
    A a;
    B b;
    int m;
    unsigned n, k_first, k_end, slice_k; /* 0: one slice */
    float *y;
    ptrdiff_t ym, a_group, b_group, y_group, y_slice;
    int accumulate, vector, activation;
    const float *bias;

    __device__ void enter(int group, int slice) {
        a.from += group * a_group;
        b.from += group * b_group;
        y += group * y_group + slice * y_slice;
        if (slice_k) {
            k_first = (unsigned)slice * slice_k;
            k_end = k_end - k_first < slice_k ? k_end : k_first + slice_k;
        }
    }
    __device__ out_t out(unsigned j) const {
        return (ptrdiff_t)j;
    }
    __device__ void put(out_t j, int i, float value) const {
        float *to = y + i * ym + j;
        *to = accumulate ? *to + value : value;
    }
    __device__ float finished(int, unsigned j, float value) const {
        value = bias && j < n ? value + bias[j] : value;
        return activation ? cnn__gpu_activation_call(activation, value) : value;
    }
    __device__ void put2(out_t j, int i, float2 value) const {
        put(j, i, value.x);
        put(j + 1, i, value.y);
    }
    __device__ void put4(out_t j, int i, float4 value) const {
        float4 *to = (float4 *)(void *)(y + i * ym + j);
        if (accumulate) {
            const float4 v = *to;
            value = make_float4(v.x + value.x, v.y + value.y, v.z + value.z, v.w + value.w);
        }
        *to = value;
    }
};

template <class A, class B>
static cnn__matrix<A, B> cnn__matrix_make(const A &a, const B &b, int m, unsigned n, unsigned k, float *y,
                                          ptrdiff_t ym) {
    cnn__matrix<A, B> p;
    memset(&p, 0, sizeof p);
    p.a = a;
    p.b = b;
    p.m = m;
    p.n = n;
    p.k_end = k;
    p.y = y;
    p.ym = ym;
    return p;
}

/* Whether rows of so many floats from there on can be read by 16 bytes. */
static int cnn__by_16(const float *from, size_t pitch) {
    return (uintptr_t)from % 16 == 0 && pitch % 4 == 0;
}

static cnn__by_row cnn__by_row_make(const float *from, int width) {
    const cnn__by_row v = {from, width, (unsigned)width, cnn__by_16(from, (size_t)width)};
    return v;
}

static cnn__by_k cnn__by_k_make(const float *from, int width, int k) {
    const cnn__by_k v = {from, k, 0, cnn__div_by((unsigned)k), (unsigned)width, cnn__by_16(from, (size_t)k)};
    return v;
}

static cnn_status cnn__launch_linear(const char *where, cudaStream_t stream, int n, int in, int out,
                                     const float *x, const float *w, const float *bias, int activation,
                                     float *y) {
    cnn__matrix<cnn__by_k, cnn__by_k> p = cnn__matrix_make(
        cnn__by_k_make(x, n, in), cnn__by_k_make(w, out, in), n, (unsigned)out, (unsigned)in, y, out);
    p.bias = bias;
    p.activation = activation;
    return cnn__launch_product(where, stream, p, n, (unsigned)out, 1, 1);
}

static cnn_status cnn__launch_linear_dx(const char *where, cudaStream_t stream, int n, int in, int out,
                                        const float *dy, const float *w, float *dx) {
    const cnn__matrix<cnn__by_k, cnn__by_row> p = cnn__matrix_make(
        cnn__by_k_make(dy, n, out), cnn__by_row_make(w, in), n, (unsigned)in, (unsigned)out, dx, in);
    return cnn__launch_product(where, stream, p, n, (unsigned)in, 1, 1);
}

/* dw and db, each unless NULL. */
static cnn_status cnn__launch_linear_dw(const char *where, cudaStream_t stream, int n, int in, int out,
                                        const float *x, const float *dy, int accumulate, float *dw,
                                        float *db) {
    if (db) {
        const dim3 block(32, CNN__SUM_ROWS);
        CNN__RUN(where, cnn__gpu_column_sum, (unsigned)cnn__pieces((size_t)out, 32), block,
                 32 * CNN__SUM_ROWS * sizeof(float), stream, dy, n, out, accumulate, db);
    }
    cnn__matrix<cnn__by_row, cnn__by_row> p = cnn__matrix_make(
        cnn__by_row_make(dy, out), cnn__by_row_make(x, in), out, (unsigned)in, (unsigned)n, dw, in);
    p.accumulate = accumulate;
    return dw ? cnn__launch_product(where, stream, p, out, (unsigned)in, 1, 1) : CNN_OK;
}

static cnn_status cnn__cuda_linear_forward(const char *where, int in, const cnn_tensor *x,
                                           const cnn_tensor *weight, const cnn_tensor *bias, cnn_tensor *y) {
    cnn__call c = cnn__call_begin(where, 0);
    const float *from = cnn__call_tensor(&c, x, CNN__IN), *w = cnn__call_tensor(&c, weight, CNN__IN);
    const float *b = cnn__call_tensor(&c, bias, CNN__IN);
    float *to = cnn__call_tensor(&c, y, CNN__OUT);
    CNN__THEN(c, cnn__launch_linear(where, c.stream, x->n, in, weight->n, from, w, b, 0, to));
    return cnn__call_end(&c);
}

static cnn_status cnn__cuda_linear_backward(const char *where, int in, const cnn_tensor *x,
                                            const cnn_tensor *weight, const cnn_tensor *dy, cnn_tensor *dx,
                                            cnn_tensor *dw, cnn_tensor *db) {
    cnn__call c = cnn__call_begin(where, 0);
    const float *from = cnn__call_tensor(&c, x, CNN__IN), *w = cnn__call_tensor(&c, weight, CNN__IN);
    const float *d = cnn__call_tensor(&c, dy, CNN__IN);
    float *to_x = cnn__call_tensor(&c, dx, CNN__OUT), *to_w = cnn__call_tensor(&c, dw, CNN__IN | CNN__OUT);
    float *to_b = cnn__call_tensor(&c, db, CNN__IN | CNN__OUT);
    if (dx)
        CNN__THEN(c, cnn__launch_linear_dx(where, c.stream, x->n, in, weight->n, d, w, to_x));
    CNN__THEN(c, cnn__launch_linear_dw(where, c.stream, x->n, in, weight->n, from, d, 1, to_w, to_b));
    return cnn__call_end(&c);
}

/* ---- convolutions ---- */

/* A convolution as kernels see it: c and o are channels of one group, n images. */
typedef struct cnn__shape {
    int n, groups, c, o, h, w, oh, ow, kh, kw, sh, sw, dh, dw, pt, pl;
    int steps;                              /* c*kh*kw */
    int x_plane, y_plane;                   /* elements of a channel */
    cnn__div by_y, by_ow, by_kernel, by_kw; /* y_plane, ow, kh*kw, kw */
} cnn__shape;

/* What lies far outside every image, and stays there when another such is added. */
#define CNN__OUTSIDE (-0x40000000)

/* Of a pixel: where its window begins, and the row and column of that. */
typedef struct cnn__pixel {
    ptrdiff_t at;
    int i, j;
} cnn__pixel;

static __device__ __forceinline__ cnn__pixel cnn__gpu_pixel(const cnn__shape &s, unsigned n, unsigned end) {
    cnn__pixel v = {0, CNN__OUTSIDE, 0};
    if (n < end) {
        const unsigned image = cnn__quotient(n, s.by_y), p = n - image * s.by_y.d,
                       row = cnn__quotient(p, s.by_ow);
        v.i = (int)row * s.sh - s.pt;
        v.j = (int)(p - row * s.by_ow.d) * s.sw - s.pl;
        v.at = (ptrdiff_t)image * s.groups * s.c * s.x_plane + (ptrdiff_t)v.i * s.w + v.j;
    }
    return v;
}

static __device__ __forceinline__ cnn__offset cnn__gpu_offset(const cnn__shape &s, unsigned k, unsigned end) {
    cnn__offset v = {0, CNN__OUTSIDE, 0};
    if (k < end) {
        const unsigned c = cnn__quotient(k, s.by_kernel), e = k - c * s.by_kernel.d,
                       a = cnn__quotient(e, s.by_kw);
        v.i = (int)a * s.dh;
        v.j = (int)(e - a * s.by_kw.d) * s.dw;
        v.at = (int)c * s.x_plane + v.i * s.w + v.j;
    }
    return v;
}

static __device__ __forceinline__ float cnn__gpu_look(const cnn__shape &s, const float *x,
                                                      const cnn__pixel &p, const cnn__offset &o) {
    return (unsigned)(p.i + o.i) < (unsigned)s.h && (unsigned)(p.j + o.j) < (unsigned)s.w ? x[p.at + o.at]
                                                                                          : 0.0f;
}

/* Where pixel n of y lies in channel 0 of the group. */
static __device__ __forceinline__ ptrdiff_t cnn__gpu_at_y(const cnn__shape &s, unsigned n) {
    const unsigned image = cnn__quotient(n, s.by_y);
    return (ptrdiff_t)image * s.groups * s.o * s.y_plane + (ptrdiff_t)(n - image * s.by_y.d);
}

/* For dw: k is a pixel of y, i < width a kernel element (c, a, b). */
struct cnn__look_k {
    const float *from;
    unsigned width;
    cnn__shape s;

    template <int WIDTH, int BK, int THREADS, int PITCH> struct fetch {
        enum { TABLE = WIDTH };

        __device__ __forceinline__ void begin(const cnn__look_k &v, unsigned i0, unsigned,
                                              cnn__offset *table) {
            for (unsigned i = threadIdx.x; i < WIDTH; i += THREADS)
                table[i] = cnn__gpu_offset(v.s, i0 + i, v.width);
        }
        __device__ __forceinline__ void look_up(const cnn__look_k &, unsigned, unsigned, cnn__offset *) {
        }
        __device__ __forceinline__ void copy(const cnn__look_k &v, unsigned k0, unsigned end,
                                             const cnn__offset *table, float *to) const {
            enum { STEP = THREADS / BK };
            const unsigned k = threadIdx.x % BK, first = threadIdx.x / BK;
            const cnn__pixel p = cnn__gpu_pixel(v.s, k0 + k, end);
            const float *from = v.from + p.at;
            CNN__GPU_UNROLL
            for (unsigned c = 0; c < WIDTH / STEP; c++) {
                const unsigned i = first + c * STEP;
                const cnn__offset o = table[i];
                cnn__copy(to + i * PITCH + k, from + o.at,
                          (unsigned)(p.i + o.i) < (unsigned)v.s.h && (unsigned)(p.j + o.j) < (unsigned)v.s.w);
            }
        }
    };
    enum { BY_K = 1 };
};

/* For y and dx: i < width is a pixel (r, q) of a grid over all images, whose window begins at
   (r*si + i0, q*sj + j0); k a kernel element (a, b), which looks (a*di, b*dj) further, and a channel: element
   after element, all channels of each. So the steps of a tile look the same way, unless the channels are no
   multiple of those: `tabled`. vector: 1x1 over whole planes that are multiples of
   four floats. */
struct cnn__look {
    const float *from;
    ptrdiff_t image;
    unsigned width;
    int h, w, channels, tabled, vector;
    int plane, row, column; /* floats from a channel to the next, a row, a column */
    int si, sj, i0, j0, di, dj;
    cnn__div by_grid, by_row, by_channels, by_bs;

    CNN__BOTH void set_elements(unsigned) {
    }
    __device__ __forceinline__ cnn__pixel pixel(unsigned n) const {
        const unsigned q = cnn__quotient(n, by_grid), at = n - q * by_grid.d, r = cnn__quotient(at, by_row);
        cnn__pixel v;
        v.i = (int)r * si + i0;
        v.j = (int)(at - r * by_row.d) * sj + j0;
        v.at = (ptrdiff_t)q * image + (ptrdiff_t)v.i * row + (ptrdiff_t)v.j * column;
        return v;
    }
    __device__ __forceinline__ cnn__offset offset(unsigned k, unsigned end) const {
        cnn__offset v = {0, CNN__OUTSIDE, 0};
        if (k < end) {
            const unsigned e = cnn__quotient(k, by_channels), a = cnn__quotient(e, by_bs);
            v.i = (int)a * di;
            v.j = (int)(e - a * by_bs.d) * dj;
            v.at = (int)(k - e * by_channels.d) * plane + v.i * row + v.j * column;
        }
        return v;
    }
    template <int WIDTH, int BK, int THREADS, int PITCH> struct fetch {
        enum { TABLE = 2 * BK, LANES = WIDTH < THREADS ? WIDTH : THREADS, PARTS = WIDTH / LANES };
        cnn__pixel p[PARTS];

        __device__ __forceinline__ void begin(const cnn__look &v, unsigned n0, unsigned, cnn__offset *) {
            CNN__GPU_UNROLL
            for (unsigned c = 0; c < PARTS; c++) {
                const unsigned n =
                    n0 + (v.vector ? threadIdx.x % (WIDTH / 4) * 4 : threadIdx.x % LANES + c * LANES);
                p[c].at = p[c].j = 0;
                p[c].i = CNN__OUTSIDE;
                if (n < v.width)
                    p[c] = v.pixel(n);
            }
        }
        __device__ __forceinline__ void look_up(const cnn__look &v, unsigned k0, unsigned end,
                                                cnn__offset *table) {
            if (v.tabled && threadIdx.x < BK)
                table[threadIdx.x] = v.offset(k0 + threadIdx.x, end);
        }
        __device__ __forceinline__ bool sees(const cnn__look &v, int part, int i, int j) const {
            return (unsigned)(p[part].i + i) < (unsigned)v.h && (unsigned)(p[part].j + j) < (unsigned)v.w;
        }
        __device__ __forceinline__ void copy(const cnn__look &v, unsigned k0, unsigned end,
                                             const cnn__offset *table, float *to) const {
            enum { STEP = THREADS / LANES };
            const unsigned i = threadIdx.x % LANES, first = threadIdx.x / LANES;
            if (v.tabled) {
                CNN__GPU_UNROLL4
                for (unsigned c = 0; c < BK / STEP; c++) {
                    const cnn__offset o = table[first + c * STEP];
                    CNN__GPU_UNROLL
                    for (int part = 0; part < PARTS; part++)
                        cnn__copy(to + (first + c * STEP) * PITCH + i + part * LANES,
                                  v.from + (p[part].at + o.at), sees(v, part, o.i, o.j));
                }
                return;
            }
            const cnn__offset o = v.offset(k0, end);
            if (v.vector) {
                enum { ROW = WIDTH / 4, STEP4 = THREADS / ROW, COUNT = (BK + STEP4 - 1) / STEP4 };
                const unsigned k = threadIdx.x / ROW;
                const float *from = v.from + (p[0].at + o.at + (ptrdiff_t)k * v.plane);
                CNN__GPU_UNROLL
                for (unsigned c = 0; c < COUNT; c++)
                    if (BK % STEP4 == 0 || k < BK)
                        cnn__copy4(to + (k + c * STEP4) * PITCH + threadIdx.x % ROW * 4,
                                   from + (ptrdiff_t)(c * STEP4) * v.plane, p[0].i >= 0);
                return;
            }
            CNN__GPU_UNROLL
            for (int part = 0; part < PARTS; part++) {
                const bool inside = sees(v, part, o.i, o.j);
                const float *from = v.from + (p[part].at + o.at + (ptrdiff_t)first * v.plane);
                CNN__GPU_UNROLL
                for (unsigned c = 0; c < BK / STEP; c++)
                    cnn__copy(to + (first + c * STEP) * PITCH + i + part * LANES,
                              from + (ptrdiff_t)(c * STEP) * v.plane, inside);
            }
        }
    };
    enum { BY_K = 0 };
};

/* The same from an image whose channels lie innermost, a multiple of 32 of them, for tensor cores; k counts
   32 channels of every kernel element, then the next 32. The 16-byte pieces of a pixel's steps are permuted
   in shared memory, lest a warp read the same banks. */
struct cnn__look_inner : cnn__look {
    enum { BY_K = 2 };
    cnn__div by_elements;

    CNN__BOTH void set_elements(unsigned elements) {
        by_elements = cnn__div_by(elements);
    }
    __device__ __forceinline__ cnn__offset inner_offset(unsigned k) const {
        const unsigned t = k / CNN__STEP_TF32, piece = cnn__quotient(t, by_elements),
                       e = t - piece * by_elements.d, a = cnn__quotient(e, by_bs);
        cnn__offset v;
        v.i = (int)a * di;
        v.j = (int)(e - a * by_bs.d) * dj;
        v.at = (int)(piece * CNN__STEP_TF32) + v.i * row + v.j * column;
        return v;
    }
    template <int WIDTH, int BK, int THREADS, int PITCH> struct fetch {
        enum { TABLE = WIDTH };

        __device__ __forceinline__ void begin(const cnn__look_inner &v, unsigned n0, unsigned,
                                              cnn__offset *table) {
            for (unsigned i = threadIdx.x; i < WIDTH; i += THREADS) {
                cnn__offset o = {0, CNN__OUTSIDE, 0};
                if (n0 + i < v.width) {
                    const cnn__pixel p = v.pixel(n0 + i);
                    o.i = p.i;
                    o.j = p.j;
                    o.at = (int)p.at;
                }
                table[i] = o;
            }
        }
        __device__ __forceinline__ void look_up(const cnn__look_inner &, unsigned, unsigned, cnn__offset *) {
        }
        __device__ __forceinline__ void copy(const cnn__look_inner &v, unsigned k0, unsigned,
                                             const cnn__offset *table, float *to) const {
            enum { ROW = BK / 4, STEP = THREADS / ROW };
            const unsigned k = threadIdx.x % ROW, first = threadIdx.x / ROW;
            const cnn__offset o = v.inner_offset(k0);
            const float *from = v.from + (o.at + (int)k * 4);
            to += first * BK + ((k ^ (first % 4 * 2)) * 4);
            CNN__GPU_UNROLL
            for (unsigned c = 0; c < WIDTH / STEP; c++) {
                const cnn__offset p = table[first + c * STEP];
                cnn__copy4(to + c * STEP * BK, from + p.at,
                           (unsigned)(p.i + o.i) < (unsigned)v.h && (unsigned)(p.j + o.j) < (unsigned)v.w);
            }
        }
    };
};

/* For dw on tensor cores, of images with channels innermost: rows of dy's pixels; and for a pixel of y the
   columns (kernel element, channel) of x. */
struct cnn__inner_row : cnn__by_row {
    enum { ROUNDED = 1 };
};

struct cnn__look_inner_k {
    enum { BY_K = 0 };
    const float *from;
    unsigned width;
    cnn__shape s;
    cnn__div by_inner;

    template <int WIDTH, int BK, int THREADS, int PITCH> struct fetch {
        enum { TABLE = 2 * BK, ROW = WIDTH / 4, STEP = THREADS / ROW };
        cnn__offset o;

        __device__ __forceinline__ void begin(const cnn__look_inner_k &v, unsigned i0, unsigned,
                                              cnn__offset *) {
            const unsigned i = i0 + threadIdx.x % ROW * 4, e = cnn__quotient(i, v.by_inner),
                           a = cnn__quotient(e, v.s.by_kw);
            o.at = o.j = 0;
            o.i = CNN__OUTSIDE;
            if (i >= v.width)
                return;
            o.i = (int)a * v.s.dh;
            o.j = (int)(e - a * v.s.by_kw.d) * v.s.dw;
            o.at = (o.i * v.s.w + o.j) * (int)v.by_inner.d + (int)(i - e * v.by_inner.d);
        }
        __device__ __forceinline__ void look_up(const cnn__look_inner_k &v, unsigned k0, unsigned end,
                                                cnn__offset *table) {
            const unsigned k = k0 + threadIdx.x;
            if (threadIdx.x >= BK)
                return;
            cnn__offset p = {0, CNN__OUTSIDE, 0};
            if (k < end) {
                const unsigned image = cnn__quotient(k, v.s.by_y), at = k - image * v.s.by_y.d,
                               row = cnn__quotient(at, v.s.by_ow);
                p.i = (int)row * v.s.sh - v.s.pt;
                p.j = (int)(at - row * v.s.by_ow.d) * v.s.sw - v.s.pl;
                p.at = ((int)image * v.s.x_plane + p.i * v.s.w + p.j) * (int)v.by_inner.d;
            }
            table[threadIdx.x] = p;
        }
        __device__ __forceinline__ void copy(const cnn__look_inner_k &v, unsigned, unsigned,
                                             const cnn__offset *table, float *to) const {
            const unsigned first = threadIdx.x / ROW;
            to += first * PITCH + threadIdx.x % ROW * 4;
            CNN__GPU_UNROLL
            for (unsigned c = 0; c < BK / STEP; c++) {
                const cnn__offset p = table[first + c * STEP];
                cnn__copy4(to + c * STEP * PITCH, v.from + (p.at + o.at),
                           (unsigned)(p.i + o.i) < (unsigned)v.s.h &&
                               (unsigned)(p.j + o.j) < (unsigned)v.s.w);
            }
        }
    };
};

/* y and dx. Rows are channels of the result, columns pixels (r, q) of the grid, which lie at
   (r*si + i0, q*sj + j0) of the result; of dx by phases, a slice each, see cnn__phase. Or rows are `merged`
   channels of the first phase, as many of the next and so on, and (r, q) is where phase 0 lies. The weights
   are packed as the other factor wants them: k as in cnn__look, then rows. */
template <class A, class B> struct cnn__conv_product {
    typedef A a_t;
    typedef B b_t;
    typedef cnn__pixel out_t;
    A a;
    B b;
    int m;
    unsigned n, k_first, k_end;
    float *to;
    ptrdiff_t to_image, a_group, b_group, to_group;
    int plane, h, w, si, sj, i0, j0; /* of the result */
    int merged, vector, activation, phases;
    const float *bias;
    cnn__shape s; /* of dx by phases */

    __device__ void enter(int group, int slice);
    __device__ out_t out(unsigned j) const {
        const unsigned image = cnn__quotient(j, b.by_grid), at = j - image * b.by_grid.d,
                       r = cnn__quotient(at, b.by_row);
        cnn__pixel v;
        v.i = (int)r * si + i0;
        v.j = (int)(at - r * b.by_row.d) * sj + j0;
        v.at = (ptrdiff_t)image * to_image + (ptrdiff_t)v.i * w + v.j;
        return v;
    }
    __device__ float finished(int i, unsigned, float value) const {
        value = bias && i < m ? value + bias[i] : value;
        return activation ? cnn__gpu_activation_call(activation, value) : value;
    }
    __device__ void put(const out_t &v, int i, float value) const {
        if (B::BY_K == 0 && merged) {
            const int phase = i / merged, r = phase / sj, q = phase - r * sj;
            if ((unsigned)(v.i + r) < (unsigned)h && (unsigned)(v.j + q) < (unsigned)w)
                to[v.at + (ptrdiff_t)(i - phase * merged) * plane + r * w + q] = value;
        } else {
            to[v.at + (ptrdiff_t)i * plane] = value;
        }
    }
    __device__ void put2(const out_t &v, int i, float2 value) const { /* not merged */
        *(float2 *)(void *)(to + v.at + (ptrdiff_t)i * plane) = value;
    }
    __device__ void put4(const out_t &v, int i, float4 value) const { /* not merged */
        *(float4 *)(void *)(to + v.at + (ptrdiff_t)i * plane) = value;
    }
};

/* With strides, pixels of dx go by phases: rows i with (i + pt) % sh equal to r meet kernel rows a with
   a*dh % sh equal to r, which are element0, element0 + step, ...; columns alike. Along one axis: the first
   pixel of phase r, how many, and so on. */
typedef struct cnn__phase {
    int pixel0, pixels, element0, step, elements;
} cnn__phase;

static __device__ cnn__phase cnn__phase_of(int r, int stride, int pad, int size, int dilation, int kernel) {
    cnn__phase v;
    int common = stride, rest = dilation % stride;
    while (rest) {
        const int t = common % rest;
        common = rest;
        rest = t;
    }
    v.pixel0 = ((r - pad) % stride + stride) % stride;
    v.pixels = v.pixel0 < size ? (size - v.pixel0 + stride - 1) / stride : 0;
    v.step = stride / common;
    v.element0 = 0;
    while (v.element0 < v.step && (int)((long long)v.element0 * dilation % stride) != r)
        ++v.element0;
    v.elements = v.element0 < v.step && v.element0 < kernel ? (kernel - v.element0 + v.step - 1) / v.step : 0;
    return v;
}

/* Kernel elements of the phases before (r, q), in which order their weights are packed. */
static __device__ int cnn__phase_start(const cnn__shape *s, int r, int q) {
    int rows = 0, columns = 0;
    for (int i = 0; i < r; i++)
        rows += cnn__phase_of(i, s->sh, s->pt, s->h, s->dh, s->kh).elements;
    for (int i = 0; i < q; i++)
        columns += cnn__phase_of(i, s->sw, s->pl, s->w, s->dw, s->kw).elements;
    return rows * s->kw + cnn__phase_of(r, s->sh, s->pt, s->h, s->dh, s->kh).elements * columns;
}

template <class A, class B> __device__ void cnn__conv_product<A, B>::enter(int group, int slice) {
    a.from += group * a_group;
    b.from += group * b_group;
    to += group * to_group;
    bias = bias ? bias + group * m : bias;
    if (!phases)
        return;
    const cnn__phase r = cnn__phase_of(slice / s.sw, s.sh, s.pt, s.h, s.dh, s.kh),
                     q = cnn__phase_of(slice % s.sw, s.sw, s.pl, s.w, s.dw, s.kw);
    const unsigned grid = (unsigned)(r.pixels * q.pixels), elements = (unsigned)(r.elements * q.elements);
    a.from += (ptrdiff_t)cnn__phase_start(&s, slice / s.sw, slice % s.sw) * b.by_channels.d * a.width;
    n = b.width = (unsigned)s.n * grid;
    k_end = elements * b.by_channels.d;
    b.set_elements(elements ? elements : 1);
    b.by_grid = cnn__div_by(grid ? grid : 1);
    b.by_row = cnn__div_by((unsigned)(q.pixels ? q.pixels : 1));
    b.by_bs = cnn__div_by((unsigned)(q.elements ? q.elements : 1));
    b.di = -(r.step * s.dh / s.sh);
    b.dj = -(q.step * s.dw / s.sw);
    b.i0 = (r.pixel0 + s.pt - r.element0 * s.dh) / s.sh;
    b.j0 = (q.pixel0 + s.pl - q.element0 * s.dw) / s.sw;
    i0 = r.pixel0;
    j0 = q.pixel0;
}

/* Weights as cnn__conv_product wants them: to[group][k][row], `width` floats a row; for tensor cores rounded
   to TF32, in blocks, see cnn__by_fragment. */
struct cnn__f_conv_pack {
    cnn__shape s;
    int back, merged, tf32;                  /* of dx; phases merged, too */
    cnn__div by_line, by_lines, by_channels; /* a line: a step, or 8 of them */
    const float *w;
    float *to;

    __device__ void operator()(size_t at) const {
        const unsigned line = cnn__quotient((unsigned)at, by_line), p = (unsigned)at - line * by_line.d;
        const unsigned group = cnn__quotient(line, by_lines);
        unsigned k = line - group * by_lines.d, m = p;
        if (tf32) {
            m = p / 128 * 16 + p / 16 % 8 + p % 2 * 8;
            k = k * 8 + p / 4 % 4 * 2 + p / 2 % 2;
        }
        const float value = weight((int)group, k, (int)m);
        to[at] = tf32 ? __uint_as_float(cnn__tf32(value)) : value;
    }
    __device__ float weight(int group, unsigned k, int row) const {
        cnn__phase v = {0, 0, 0, 1, s.kh}, u = {0, 0, 0, 1, s.kw};
        if (back && !merged && s.sh * s.sw > 1)
            find(&k, &v, &u);
        const unsigned channels = by_channels.d, elements = (unsigned)(v.elements * u.elements);
        unsigned e = cnn__quotient(k, by_channels), c = k - e * channels;
        if (tf32) {
            const unsigned t = k / CNN__STEP_TF32, piece = t / elements;
            e = t - piece * elements;
            c = piece * CNN__STEP_TF32 + k % CNN__STEP_TF32;
        }
        int a = (int)e / u.elements, b = (int)e - a * u.elements;
        a = v.element0 + a * v.step;
        b = u.element0 + b * u.step;
        if (merged) {
            const int columns = (s.kw + s.sw - 1) / s.sw, phase = row / s.c, r = phase / s.sw;
            row -= phase * s.c;
            a = (int)e / columns;
            b = ((int)e - a * columns) * s.sw + phase - r * s.sw;
            a = r < s.sh ? a * s.sh + r : s.kh;
        }
        const int o = back ? (int)c : row, from = back ? row : (int)c;
        if (o >= s.o || from >= s.c || a >= s.kh || b >= s.kw)
            return 0;
        return w[((size_t)group * (size_t)s.o + (size_t)o) * (size_t)s.steps +
                 (size_t)((from * s.kh + a) * s.kw + b)];
    }
    /* The phase of step k, counted from the start of which k then is. */
    __device__ void find(unsigned *k, cnn__phase *v, cnn__phase *u) const {
        for (int r = 0; r < s.sh; r++) {
            *v = cnn__phase_of(r, s.sh, s.pt, s.h, s.dh, s.kh);
            for (int q = 0; q < s.sw; q++) {
                *u = cnn__phase_of(q, s.sw, s.pl, s.w, s.dw, s.kw);
                const unsigned steps = (unsigned)(v->elements * u->elements) * by_channels.d;
                if (*k < steps)
                    return;
                *k -= steps;
            }
        }
    }
};

/* Fewer output or input channels in a group than these, and a tile would be mostly empty: a thread an
   element. */
enum { CNN__FEW_CHANNELS = 4, CNN__FEW_STEPS = 9, CNN__WINO_CHANNELS = 30 };

struct cnn__f_conv_y {
    cnn__shape s;
    const float *x, *w, *bias;
    int activation;
    float *y;
    __device__ void operator()(size_t at) const {
        const unsigned plane = cnn__quotient((unsigned)at, s.by_y), p = (unsigned)at - plane * s.by_y.d;
        const unsigned channels = (unsigned)(s.groups * s.o), image = plane / channels,
                       o = plane - image * channels;
        const cnn__pixel v = cnn__gpu_pixel(s, image * s.by_y.d + p, 0xffffffffu);
        const float *from = x + v.at + (ptrdiff_t)(o / (unsigned)s.o) * s.c * s.x_plane;
        const float *weight = w + (size_t)o * (size_t)s.steps;
        float sum = bias ? bias[o] : 0.0f;
        for (int c = 0; c < s.c; c++, from += s.x_plane)
            for (int a = 0; a < s.kh; a++, weight += s.kw) {
                const float *row = from + a * s.dh * s.w;
                if ((unsigned)(v.i + a * s.dh) >= (unsigned)s.h)
                    continue;
                CNN__GPU_UNROLL4
                for (int b = 0; b < s.kw; b++)
                    if ((unsigned)(v.j + b * s.dw) < (unsigned)s.w)
                        sum = fmaf(weight[b], row[b * s.dw], sum);
            }
        y[at] = cnn__gpu_activation(activation, sum);
    }
};

struct cnn__f_conv_dx {
    cnn__shape s;
    cnn__div by_x, by_w, by_sh, by_sw;
    const float *w, *dy;
    float *dx;
    __device__ void operator()(size_t at) const {
        const unsigned plane = cnn__quotient((unsigned)at, by_x), p = (unsigned)at - plane * by_x.d;
        const int i = (int)cnn__quotient(p, by_w), j = (int)(p - (unsigned)i * by_w.d);
        const unsigned channels = (unsigned)(s.groups * s.c), image = plane / channels,
                       c = plane - image * channels, group = c / (unsigned)s.c;
        const float *from = dy + ((size_t)image * (size_t)s.groups + group) * (size_t)s.o * (size_t)s.y_plane;
        const float *weight = w + (size_t)group * (size_t)s.o * (size_t)s.steps +
                              (size_t)(c - group * (unsigned)s.c) * (size_t)(s.kh * s.kw);
        float sum = 0;
        for (int a = 0; a < s.kh; a++) {
            const int top = i + s.pt - a * s.dh, oh = (int)cnn__quotient((unsigned)top, by_sh);
            if (top < 0 || oh * s.sh != top || oh >= s.oh)
                continue;
            CNN__GPU_UNROLL4
            for (int b = 0; b < s.kw; b++) {
                const int left = j + s.pl - b * s.dw, ow = (int)cnn__quotient((unsigned)left, by_sw);
                if (left < 0 || ow * s.sw != left || ow >= s.ow)
                    continue;
                const float *d = from + oh * s.ow + ow, *e = weight + a * s.kw + b;
                sum = fmaf(*e, *d, sum);
                for (int o = 1; o < s.o; o++)
                    sum = fmaf(e[(ptrdiff_t)o * s.steps], d[(ptrdiff_t)o * s.y_plane], sum);
            }
        }
        dx[at] = sum;
    }
};

/* A block sums up to CNN__FEW_STEPS weights of an output channel over a slice of all pixels. */
static __global__ void cnn__gpu_conv_dw(cnn__shape s, const float *x, const float *dy, unsigned slice_pixels,
                                        float *part) {
    CNN__SHARED(double, shared);
    const unsigned pieces = (unsigned)(s.steps + CNN__FEW_STEPS - 1) / CNN__FEW_STEPS;
    const unsigned o = blockIdx.x / pieces, k0 = (blockIdx.x - o * pieces) * CNN__FEW_STEPS;
    const unsigned pixels = (unsigned)s.n * (unsigned)s.y_plane, begin = blockIdx.y * slice_pixels;
    const unsigned end = pixels - begin < slice_pixels ? pixels : begin + slice_pixels;
    cnn__offset k[CNN__FEW_STEPS];
    float sum[CNN__FEW_STEPS];
    CNN__GPU_UNROLL
    for (unsigned i = 0; i < CNN__FEW_STEPS; i++) {
        k[i] = cnn__gpu_offset(s, k0 + i, (unsigned)s.steps);
        sum[i] = 0;
    }
    x += (ptrdiff_t)(o / (unsigned)s.o) * s.c * s.x_plane;
    dy += (ptrdiff_t)o * s.y_plane;
    for (unsigned p = begin + threadIdx.x; p < end; p += CNN__BLOCK) {
        const float d = dy[cnn__gpu_at_y(s, p)];
        const cnn__pixel v = cnn__gpu_pixel(s, p, pixels);
        CNN__GPU_UNROLL
        for (unsigned i = 0; i < CNN__FEW_STEPS; i++)
            sum[i] = fmaf(d, cnn__gpu_look(s, x, v, k[i]), sum[i]);
    }
    part += ((size_t)blockIdx.y * (size_t)(s.groups * s.o) + o) * (size_t)s.steps + k0;
    CNN__GPU_UNROLL
    for (unsigned i = 0; i < CNN__FEW_STEPS; i++) {
        const double total = cnn__gpu_block_sum((double)sum[i], shared);
        if (threadIdx.x == 0 && k0 + i < (unsigned)s.steps)
            part[i] = (float)total;
        __syncthreads();
    }
}

/* Winograd's minimal filtering F(4x4, 3x3), as on the CPU, see cnn__wino_input1: all tiles of some images at
   a time transformed to V[element][channel][tile], the weights to U[element][step][row], 36 products
   M[element][row][tile], and M transformed back. */

static __device__ __forceinline__ void cnn__gpu_wino_input(const float *d, int s, float *t, int u) {
    const float p = 0.70710678f, q = 1.41421356f;
    const float a = d[4 * s] - 2.0f * d[2 * s], b = d[3 * s] - 2.0f * d[s];
    const float c = d[4 * s] - 0.5f * d[2 * s], e = d[3 * s] - 0.5f * d[s];
    t[0] = fmaf(-2.5f, d[2 * s], d[0] + d[4 * s]);
    t[u] = fmaf(p, b, a);
    t[2 * u] = fmaf(-p, b, a);
    t[3 * u] = fmaf(q, e, c);
    t[4 * u] = fmaf(-q, e, c);
    t[5 * u] = fmaf(-2.5f, d[3 * s], d[s] + d[5 * s]);
}

/* A polynomial at 0, p, -p, q, -q and infinity, from its even and odd parts at p and at q. */
static __device__ __forceinline__ void cnn__gpu_wino_values(float at_0, float even_p, float odd_p,
                                                            float even_q, float odd_q, float at_infinity,
                                                            float *t, int u) {
    t[0] = at_0;
    t[u] = even_p + odd_p;
    t[2 * u] = even_p - odd_p;
    t[3 * u] = even_q + odd_q;
    t[4 * u] = even_q - odd_q;
    t[5 * u] = at_infinity;
}

static __device__ __forceinline__ void cnn__gpu_wino_gradient(const float *d, int s, float *t, int u) {
    const float p = 0.70710678f, q = 1.41421356f;
    cnn__gpu_wino_values(d[0], fmaf(0.5f, d[2 * s], d[0]), p * fmaf(0.5f, d[3 * s], d[s]),
                         fmaf(2.0f, d[2 * s], d[0]), q * fmaf(2.0f, d[3 * s], d[s]), d[3 * s], t, u);
}

static __device__ __forceinline__ void cnn__gpu_wino_weight(const float *g, int s, float *t, int u) {
    cnn__gpu_wino_values(g[0], -2.0f / 3 * (g[0] + 0.5f * g[2 * s]), -0.47140452f * g[s],
                         1.0f / 6 * (g[0] + 2.0f * g[2 * s]), 0.23570226f * g[s], g[2 * s], t, u);
}

static __device__ __forceinline__ void cnn__gpu_wino_output(const float *m, int s, float *t, int u) {
    const float p = 0.70710678f, q = 1.41421356f;
    const float a = m[s] + m[2 * s], b = m[s] - m[2 * s], c = m[3 * s] + m[4 * s], e = m[3 * s] - m[4 * s];
    t[0] = m[0] + a + c;
    t[u] = fmaf(p, b, q * e);
    t[2 * u] = fmaf(0.5f, a, c + c);
    t[3 * u] = fmaf(0.35355339f, b, fmaf(2.82842712f, e, m[5 * s]));
}

static __device__ __forceinline__ void cnn__gpu_wino_kernel(const float *m, int s, float *t, int u) {
    const float a = m[s] + m[2 * s], b = m[s] - m[2 * s], c = m[3 * s] + m[4 * s], e = m[3 * s] - m[4 * s];
    t[0] = fmaf(-2.0f / 3, a, fmaf(1.0f / 6, c, m[0]));
    t[u] = fmaf(-0.47140452f, b, 0.23570226f * e);
    t[2 * u] = fmaf(1.0f / 3, c - a, m[5 * s]);
}

/* Tiles of a tensor, `pitch` of each channel, those from `count` on being zeros. */
typedef struct cnn__tiling {
    int channels, h, w, top, left; /* of the tensor; where the first tile begins */
    unsigned count, pitch;
    cnn__div by_pitch, by_tiles, by_across;
} cnn__tiling;

/* A tile's channel and corner; where its image's channel begins, or -1 beyond the last tile. */
typedef struct cnn__corner {
    ptrdiff_t from;
    int channel, i, j;
} cnn__corner;

static __device__ __forceinline__ cnn__corner cnn__gpu_corner(const cnn__tiling &v, unsigned at) {
    cnn__corner to = {-1, 0, 0, 0};
    const unsigned c = cnn__quotient(at, v.by_pitch), t = at - c * v.pitch;
    const unsigned image = cnn__quotient(t, v.by_tiles), k = t - image * v.by_tiles.d;
    const unsigned row = cnn__quotient(k, v.by_across);
    to.channel = (int)c;
    to.i = (int)row * 4 - v.top;
    to.j = (int)(k - row * v.by_across.d) * 4 - v.left;
    if (t < v.count)
        to.from = ((ptrdiff_t)image * v.channels + (ptrdiff_t)c) * v.h * v.w;
    return to;
}

/* SIDE: 6, V of an image; 4, that of a gradient of the output. */
template <int SIDE> struct cnn__f_wino_input {
    cnn__tiling v;
    const float *x;
    float *to;
    __device__ void operator()(size_t at) const {
        const cnn__corner p = cnn__gpu_corner(v, (unsigned)at);
        const size_t element = (size_t)v.channels * v.pitch;
        float d[SIDE * SIDE], t[6 * SIDE], r[6];
        CNN__GPU_UNROLL
        for (int a = 0; a < SIDE; a++) {
            const bool inside = p.from >= 0 && (unsigned)(p.i + a) < (unsigned)v.h;
            const float *from = x + (p.from + (ptrdiff_t)(p.i + a) * v.w + p.j);
            CNN__GPU_UNROLL
            for (int b = 0; b < SIDE; b++)
                d[a * SIDE + b] = inside && (unsigned)(p.j + b) < (unsigned)v.w ? from[b] : 0.0f;
        }
        CNN__GPU_UNROLL
        for (int b = 0; b < SIDE; b++) {
            if (SIDE == 6)
                cnn__gpu_wino_input(d + b, SIDE, t + b, SIDE);
            else
                cnn__gpu_wino_gradient(d + b, SIDE, t + b, SIDE);
        }
        CNN__GPU_UNROLL
        for (int a = 0; a < 6; a++) {
            if (SIDE == 6)
                cnn__gpu_wino_input(t + a * SIDE, 1, r, 1);
            else
                cnn__gpu_wino_gradient(t + a * SIDE, 1, r, 1);
            CNN__GPU_UNROLL
            for (int b = 0; b < 6; b++)
                to[(size_t)(a * 6 + b) * element + at] = r[b];
        }
    }
};

/* to[element][step][row], width floats a row; of dx: of kernels turned around, rows being c. */
struct cnn__f_wino_weight {
    int o, c, back;
    cnn__div by_width;
    const float *w;
    float *to;
    __device__ void operator()(size_t at) const {
        const unsigned k = cnn__quotient((unsigned)at, by_width), m = (unsigned)at - k * by_width.d;
        const size_t element = (size_t)(back ? o : c) * by_width.d;
        const bool inside = (int)m < (back ? c : o);
        const float *from = w + ((size_t)(back ? k : m) * (size_t)c + (size_t)(back ? m : k)) * 9;
        float d[9], t[18], r[6];
        CNN__GPU_UNROLL
        for (int e = 0; e < 9; e++)
            d[e] = inside ? from[back ? 8 - e : e] : 0.0f;
        CNN__GPU_UNROLL
        for (int b = 0; b < 3; b++)
            cnn__gpu_wino_weight(d + b, 3, t + b, 3);
        CNN__GPU_UNROLL
        for (int a = 0; a < 6; a++) {
            cnn__gpu_wino_weight(t + a * 3, 1, r, 1);
            CNN__GPU_UNROLL
            for (int b = 0; b < 6; b++)
                to[(size_t)(a * 6 + b) * element + at] = r[b];
        }
    }
};

struct cnn__f_wino_output {
    cnn__tiling v; /* of y */
    const float *m, *bias;
    int activation;
    float *y;
    __device__ void operator()(size_t at) const {
        const cnn__corner p = cnn__gpu_corner(v, (unsigned)at);
        const size_t element = (size_t)v.channels * v.pitch;
        float d[36], t[24], r[4];
        if (p.from < 0)
            return;
        CNN__GPU_UNROLL
        for (int e = 0; e < 36; e++)
            d[e] = m[(size_t)e * element + at];
        CNN__GPU_UNROLL
        for (int b = 0; b < 6; b++)
            cnn__gpu_wino_output(d + b, 6, t + b, 6);
        const float add = bias ? bias[p.channel] : 0.0f;
        float *to = y + (p.from + (ptrdiff_t)p.i * v.w + p.j);
        CNN__GPU_UNROLL
        for (int a = 0; a < 4; a++, to += v.w) {
            cnn__gpu_wino_output(t + a * 6, 1, r, 1);
            CNN__GPU_UNROLL
            for (int b = 0; b < 4; b++)
                r[b] = activation ? cnn__gpu_activation_call(activation, r[b] + add) : r[b] + add;
            if (p.i + a >= v.h)
                return;
            if (v.w % 4 == 0 && (uintptr_t)y % 16 == 0) {
                *(float4 *)(void *)to = make_float4(r[0], r[1], r[2], r[3]);
                continue;
            }
            CNN__GPU_UNROLL
            for (int b = 0; b < 4; b++)
                if (p.j + b < v.w)
                    to[b] = r[b];
        }
    }
};

/* dw of a pair (o, c), from the sums over tiles: sums[slice][element][pair]. */
struct cnn__f_wino_kernel {
    const float *sums;
    size_t pairs;
    int slices, accumulate;
    float *dw;
    __device__ void operator()(size_t at) const {
        float d[36], t[18], r[3];
        CNN__GPU_UNROLL
        for (int e = 0; e < 36; e++)
            d[e] = 0;
        for (int s = 0; s < slices; s++) {
            CNN__GPU_UNROLL
            for (int e = 0; e < 36; e++)
                d[e] += sums[((size_t)s * 36 + (size_t)e) * pairs + at];
        }
        CNN__GPU_UNROLL
        for (int b = 0; b < 6; b++)
            cnn__gpu_wino_kernel(d + b, 6, t + b, 6);
        float *to = dw + at * 9;
        CNN__GPU_UNROLL
        for (int a = 0; a < 3; a++) {
            cnn__gpu_wino_kernel(t + a * 6, 1, r, 1);
            CNN__GPU_UNROLL
            for (int b = 0; b < 3; b++)
                to[a * 3 + b] = accumulate ? to[a * 3 + b] + r[b] : r[b];
        }
    }
};

/* Planes of `channels` of every group of every image, channels innermost, filled up with zeros, and rounded
   to TF32: to[group][image][pixel][channel]. A block transposes 32 pixels of 32 channels. */
static __global__ void cnn__gpu_inner(const float *x, int n, int groups, int channels, int inner, int plane,
                                      float *to) {
    CNN__SHARED(float, shared);
    const int pieces = (plane + 31) / 32, of = (int)blockIdx.x / pieces, i = of / groups, g = of - i * groups;
    const int p0 = ((int)blockIdx.x - of * pieces) * 32, c0 = (int)blockIdx.y * 32;
    const int lane = (int)threadIdx.x, first = (int)threadIdx.y;
    for (int c = first; c < 32; c += (int)blockDim.y)
        shared[c * 33 + lane] = c0 + c < channels && p0 + lane < plane
                                    ? x[((ptrdiff_t)of * channels + c0 + c) * plane + p0 + lane]
                                    : 0.0f;
    __syncthreads();
    to += ((ptrdiff_t)(g * n + i) * plane + p0) * inner + c0 + lane;
    for (int p = first; p < 32 && p0 + p < plane; p += (int)blockDim.y)
        to[(ptrdiff_t)p * inner] = __uint_as_float(cnn__tf32(shared[lane * 33 + p]));
}

/* dw[o][c][element] = or += the sum over slices of part[slice][o][element][inner channel]. */
struct cnn__f_fold_inner {
    const float *part;
    size_t count; /* of a slice */
    int slices, accumulate, channels, inner, elements;
    float *dw;
    __device__ void operator()(size_t at) const {
        const unsigned line = (unsigned)at / (unsigned)elements, e = (unsigned)at - line * (unsigned)elements;
        const unsigned o = line / (unsigned)channels, c = line - o * (unsigned)channels;
        const float *from = part + ((size_t)o * (size_t)elements + e) * (size_t)inner + c;
        float sum = 0;
        for (int k = 0; k < slices; k++)
            sum += from[(size_t)k * count];
        dw[at] = accumulate ? dw[at] + sum : sum;
    }
};

/* Padding other than zeros: the padded image, in full, and its adjoint. */
typedef struct cnn__padding {
    cnn_padding_mode mode;
    int h, w, hp, wp, pt, pl;
    cnn__div by_plane, by_row; /* of the padded image in cnn__f_pad, of the image in cnn__f_unpad */
} cnn__padding;

struct cnn__f_pad {
    cnn__padding v;
    const float *x;
    float *y;
    __device__ void operator()(size_t at) const {
        const unsigned plane = cnn__quotient((unsigned)at, v.by_plane),
                       p = (unsigned)at - plane * v.by_plane.d;
        const unsigned i = cnn__quotient(p, v.by_row), j = p - i * v.by_row.d;
        const int from_i = cnn__source((int)i, v.pt, v.h, v.mode),
                  from_j = cnn__source((int)j, v.pl, v.w, v.mode);
        y[at] = x[(size_t)plane * (size_t)v.h * (size_t)v.w + (size_t)(from_i * v.w + from_j)];
    }
};

/* An element gathers what all its images in the padding got: the candidates along an axis are the padding
   before, its own place, and the padding behind. */
struct cnn__f_unpad {
    cnn__padding v;
    const float *dy;
    float *dx;
    __device__ static int next(int at, int own, int pad, int n) {
        return at < pad - 1 ? at + 1 : at < own ? own : at < pad + n ? pad + n : at + 1;
    }
    __device__ void operator()(size_t at) const {
        const unsigned plane = cnn__quotient((unsigned)at, v.by_plane),
                       p = (unsigned)at - plane * v.by_plane.d;
        const int i = (int)cnn__quotient(p, v.by_row), j = (int)(p - (unsigned)i * v.by_row.d);
        const float *from = dy + (size_t)plane * (size_t)v.hp * (size_t)v.wp;
        float sum = 0;
        for (int a = next(-1, v.pt + i, v.pt, v.h); a < v.hp; a = next(a, v.pt + i, v.pt, v.h)) {
            if (cnn__source(a, v.pt, v.h, v.mode) != i)
                continue;
            for (int b = next(-1, v.pl + j, v.pl, v.w); b < v.wp; b = next(b, v.pl + j, v.pl, v.w))
                sum += cnn__source(b, v.pl, v.w, v.mode) == j ? from[(size_t)a * (size_t)v.wp + (size_t)b]
                                                              : 0.0f;
        }
        dx[at] = sum;
    }
};

/* The packed weights of a product: steps of `width` floats, of which m count. */
typedef struct cnn__packing {
    int back, tf32, merged, tabled, channels, m, width, steps;
    size_t floats;
} cnn__packing;

/* Phases together where each would fill but a part of the smallest tile, and the kernel elements that only
   some of them have are not too many. */
static cnn__packing cnn__packing_make(const cnn__shape *s, int back, int tf32) {
    cnn__packing v;
    int elements = s->kh * s->kw;
    const int all = ((s->kh + s->sh - 1) / s->sh) * ((s->kw + s->sw - 1) / s->sw);
    memset(&v, 0, sizeof v);
    v.back = back;
    v.tf32 = tf32;
    v.channels = back ? s->o : s->c;
    v.m = back ? s->c : s->o;
    if (back && s->sh * s->sw > 1 && (double)s->c * s->sh * s->sw <= 16 && s->dh == 1 && s->dw == 1 &&
        (double)all * s->sh * s->sw <= 2.0 * elements) {
        v.merged = s->c;
        v.m = s->c * s->sh * s->sw;
        elements = all;
    }
    v.tabled = !tf32 && v.channels % CNN__STEP != 0;
    v.channels = (int)cnn__round_up((size_t)v.channels, tf32 ? CNN__STEP_TF32 : 1);
    v.width = (int)cnn__round_up((size_t)v.m, tf32 ? 16 : 4);
    v.steps = elements * v.channels;
    v.floats = (size_t)s->groups * (size_t)v.steps * (size_t)v.width;
    return v;
}

/* What a convolution needs besides its tensors, in floats, and how the work is cut: at_once images at a
   time, so that 32 bits count pixels; the pixels of dw in slices, their number fixed by the shapes; those of
   db too. pad: padded images, then packed weights and images with channels innermost, or transformed; part:
   `sums` for slices of dw, then those of db. */
typedef struct cnn__conv_plan {
    cnn__shape s; /* padded in full where the padding is not zeros */
    cnn__padding padding;
    int padded, at_once, db_slices, wino[3]; /* of y, dx, dw */
    size_t padded_floats, pad_floats, sums, part_floats;
} cnn__conv_plan;

/* Into how many slices to cut the sums of a product over k steps: few, but so that the last round of tiles is
   a full one, more or less. */
static int cnn__product_slices(int m, int n, int groups, double k, int tf32) {
    const cnn__tile_kind *v = &cnn__tile_kinds[cnn__tile_pick(m, (unsigned)n, groups * 1000)];
    const int bm = !tf32 ? v->m : m <= 64 ? 64 : 128, bn = !tf32 ? v->n : m <= 64 ? 256 : 128;
    const int at_once = tf32 ? 264 : v->at_once, most = (int)(k / 512);
    const double tiles = (double)cnn__tile_count(m, (unsigned)n, bm, bn) * groups;
    int best = 1;
    double fullest = 0;
    for (int rounds = 1; rounds <= 6 && fullest < 0.9; rounds++) {
        const int slices = (int)(rounds * at_once / tiles);
        const double full = slices * tiles / (rounds * at_once);
        if (slices > most || full <= fullest)
            continue;
        fullest = full;
        best = slices;
    }
    return fullest > 0 ? best : most > 1 && tiles < at_once ? most : 1;
}

/* Floats that images with channels innermost, or transformed, take: of as many at a time as that holds. */
enum { CNN__TRANSFORMED = 64 << 20 };

/* dw on tensor cores from images with channels innermost: not of so few channels that most would be filled
   up, nor where dw is a plain product. */
static int cnn__inner_dw(const cnn__shape *s) {
    return s->c >= 24 && s->o > 32 && s->kh * s->kw > 1;
}

static size_t cnn__inner_dw_image(const cnn__shape *s) {
    return (size_t)s->groups * (cnn__round_up((size_t)s->c, 32) * (size_t)s->x_plane +
                                cnn__round_up((size_t)s->o, 32) * (size_t)s->y_plane);
}

static int cnn__inner_dw_at_once(const cnn__shape *s, int n) {
    const double image = (double)cnn__inner_dw_image(s);
    return image * n < CNN__TRANSFORMED ? n : image > CNN__TRANSFORMED ? 1 : (int)(CNN__TRANSFORMED / image);
}

static size_t cnn__inner_dw_weights(const cnn__shape *s) {
    return (size_t)(s->groups * s->o * s->kh * s->kw) * cnn__round_up((size_t)s->c, 32);
}

static int cnn__inner_dw_slices(const cnn__shape *s, int n) {
    return cnn__product_slices(s->o, s->kh * s->kw * (int)cnn__round_up((size_t)s->c, 32), s->groups,
                               (double)cnn__inner_dw_at_once(s, n) * s->y_plane, 1);
}

static int cnn__few_slices(const cnn__shape *s, int images) {
    const double slices = (double)images * s->y_plane / 4096;
    return slices < 1 ? 1 : slices > 16 ? 16 : (int)slices;
}

static int cnn__dw_slices(const cnn__shape *s, int images, int tf32) {
    return cnn__product_slices(s->o, s->steps, s->groups, (double)images * s->y_plane, tf32);
}

/* Whether y or dx may go over tensor cores: not of so few channels that most would be filled up, nor where so
   few rows see each pixel once that moving the channels costs more than it saves. */
static int cnn__conv_inner(const cnn__shape *s, int back) {
    const int rows = back ? s->c : s->o, steps = back ? s->o : s->c;
    return steps >= 24 && rows > (s->kh * s->kw > 1 ? 32 : 64);
}

/* Images with channels innermost, of which as many are made at a time. */
static int cnn__inner_at_once(const cnn__shape *s, const cnn__packing *v, int n) {
    const double image = (double)s->groups * v->channels * (v->back ? s->y_plane : s->x_plane);
    return image * n < CNN__TRANSFORMED ? n : image > CNN__TRANSFORMED ? 1 : (int)(CNN__TRANSFORMED / image);
}

static size_t cnn__inner_floats(const cnn__shape *s, const cnn__packing *v, int n) {
    return (size_t)cnn__inner_at_once(s, v, n) * (size_t)s->groups * (size_t)v->channels *
           (size_t)(v->back ? s->y_plane : s->x_plane);
}

static int cnn__wino_tiles(const cnn__shape *s) { /* of y; of dx as many */
    return (int)(cnn__pieces((size_t)s->oh, 4) * cnn__pieces((size_t)s->ow, 4));
}

static int cnn__wino_at_once(const cnn__shape *s, int n) {
    const double image = 36.0 * (s->c + s->o) * (cnn__wino_tiles(s) + 3);
    return image * n < CNN__TRANSFORMED ? n : image > CNN__TRANSFORMED ? 1 : (int)(CNN__TRANSFORMED / image);
}

static size_t cnn__wino_scratch(const cnn__shape *s, int n) { /* without sums for dw */
    const size_t tiles = cnn__round_up((size_t)(cnn__wino_at_once(s, n) * cnn__wino_tiles(s)), 4);
    return 36 *
           (cnn__round_up((size_t)s->c, 4) * cnn__round_up((size_t)s->o, 4) + (size_t)(s->c + s->o) * tiles);
}

static cnn__tiling cnn__tiling_make(const cnn__shape *s, int images, int channels, int h, int w, int top,
                                    int left) {
    const int tiles = cnn__wino_tiles(s);
    cnn__tiling v;
    v.channels = channels;
    v.h = h;
    v.w = w;
    v.top = top;
    v.left = left;
    v.count = (unsigned)(images * tiles);
    v.pitch = (unsigned)cnn__round_up(v.count, 4);
    v.by_pitch = cnn__div_by(v.pitch);
    v.by_tiles = cnn__div_by((unsigned)tiles);
    v.by_across = cnn__div_by((unsigned)cnn__pieces((size_t)s->ow, 4));
    return v;
}

static int cnn__wino_slices(const cnn__shape *s, int images) {
    return cnn__product_slices(s->o, s->c, 36, (double)cnn__wino_at_once(s, images) * cnn__wino_tiles(s), 0);
}

/* As cnn__conv_winograd, which see; what the transforms move weighs more here. */
static int cnn__wino_wanted(const cnn__conv *v, int what) {
    const int bottom = v->hp - v->h - v->pt, right = v->wp - v->w - v->pl, least = what == CNN__DW ? 12 : 6;
    if (v->kh != 3 || v->kw != 3 || v->sh > 1 || v->sw > 1 || v->dh > 1 || v->dw > 1 || v->groups > 1 ||
        v->oh < least || v->ow < least || v->no_winograd ||
        (double)v->c * v->o < CNN__WINO_CHANNELS * ((double)v->c + v->o))
        return 0;
    if (what != CNN__Y && v->mode != CNN_PAD_ZEROS)
        return 0;
    if (what == CNN__DX)
        return v->pt == 1 && v->pl == 1 && bottom == 1 && right == 1;
    return v->pt < 2 && v->pl < 2 && bottom < 2 && right < 2;
}

static size_t cnn__larger(size_t a, size_t b) {
    return a > b ? a : b;
}

/* What the largest of the ways takes that a plan may go, TF32 being chosen, or left, later on. */
static void cnn__plan_scratch(cnn__conv_plan *plan) {
    const cnn__shape *s = &plan->s;
    const size_t channels = (size_t)(s->groups * s->o), weights = channels * (size_t)s->steps;
    const int n = plan->at_once, few = s->o < CNN__FEW_CHANNELS || s->groups > 65535;
    size_t packed = 0, sums = few ? (size_t)cnn__few_slices(s, n) * weights : 0;
    for (int i = 0; i < 4; i++) {
        const cnn__packing v = cnn__packing_make(s, i / 2, i % 2);
        const size_t floats = v.floats + (v.tf32 ? cnn__inner_floats(s, &v, n) : 0);
        const int slices = cnn__dw_slices(s, n, i % 2);
        if (!v.tf32 || cnn__conv_inner(s, v.back))
            packed = cnn__larger(packed, floats);
        if (slices > 1)
            sums = cnn__larger(sums, (size_t)slices * weights);
    }
    if (plan->wino[CNN__Y] || plan->wino[CNN__DX] || plan->wino[CNN__DW])
        packed = cnn__larger(packed, cnn__wino_scratch(s, n));
    if (plan->wino[CNN__DW])
        sums = cnn__larger(sums, (size_t)cnn__wino_slices(s, n) * 36 * (size_t)s->o * (size_t)s->c);
    if (cnn__inner_dw(s)) {
        packed = cnn__larger(packed, (size_t)cnn__inner_dw_at_once(s, n) * cnn__inner_dw_image(s));
        sums = cnn__larger(sums, (size_t)cnn__inner_dw_slices(s, n) * cnn__inner_dw_weights(s));
    }
    plan->sums = cnn__round_up(sums, 4);
    plan->padded_floats = plan->padded ? (size_t)n * (size_t)(s->groups * s->c) * (size_t)s->x_plane : 0;
    plan->padded_floats = cnn__round_up(plan->padded_floats, 4);
    plan->pad_floats = plan->padded_floats + packed;
    plan->db_slices = cnn__min(n, 16);
    plan->part_floats = plan->sums + (size_t)plan->db_slices * channels;
}

static cnn_status cnn__conv_plan_make(const char *where, const cnn__conv *v, int n, cnn__conv_plan *plan) {
    cnn__shape *s = &plan->s;
    memset(plan, 0, sizeof *plan);
    const int channels = v->groups * (v->c > v->o ? v->c : v->o);
    plan->padded = v->mode != CNN_PAD_ZEROS && (v->hp != v->h || v->wp != v->w);
    s->n = n;
    s->groups = v->groups;
    s->c = v->c;
    s->o = v->o;
    s->h = plan->padded ? v->hp : v->h;
    s->w = plan->padded ? v->wp : v->w;
    s->oh = v->oh;
    s->ow = v->ow;
    s->kh = v->kh;
    s->kw = v->kw;
    s->sh = v->sh;
    s->sw = v->sw;
    s->dh = v->dh;
    s->dw = v->dw;
    s->pt = plan->padded ? 0 : v->pt;
    s->pl = plan->padded ? 0 : v->pl;
    s->steps = v->c * v->kh * v->kw;
    if ((double)channels * ((double)s->h * s->w + (double)s->oh * s->ow) > 0x40000000 ||
        (double)s->o * s->groups * s->steps > INT_MAX)
        return cnn__fail(CNN_ERR_SHAPE, "%s: images of %d channels of %dx%d are too large for the device",
                         where, channels, s->h, s->w);
    s->x_plane = s->h * s->w;
    s->y_plane = s->oh * s->ow;
    s->by_y = cnn__div_by((unsigned)s->y_plane);
    s->by_ow = cnn__div_by((unsigned)s->ow);
    s->by_kernel = cnn__div_by((unsigned)(s->kh * s->kw));
    s->by_kw = cnn__div_by((unsigned)s->kw);
    plan->padding.mode = v->mode;
    plan->padding.h = v->h;
    plan->padding.w = v->w;
    plan->padding.hp = v->hp;
    plan->padding.wp = v->wp;
    plan->padding.pt = v->pt;
    plan->padding.pl = v->pl;
    plan->at_once = cnn__images_at_once(n, (size_t)channels * (size_t)(s->x_plane + s->y_plane));
    for (int what = 0; what < 3; what++)
        plan->wino[what] = cnn__wino_wanted(v, what);
    cnn__plan_scratch(plan);
    return CNN_OK;
}

/* The part of a plan's images from i on. */
static cnn__shape cnn__plan_part(const cnn__conv_plan *plan, int i) {
    cnn__shape s = plan->s;
    s.n = cnn__min(plan->at_once, s.n - i);
    return s;
}

static size_t cnn__image_x(const cnn__conv_plan *plan) { /* elements of an image before padding */
    return (size_t)(plan->s.groups * plan->s.c) * (size_t)plan->padding.h * (size_t)plan->padding.w;
}

static size_t cnn__image_y(const cnn__conv_plan *plan) {
    return (size_t)(plan->s.groups * plan->s.o) * (size_t)plan->s.y_plane;
}

static cnn_status cnn__launch_pad(const char *where, cudaStream_t stream, const cnn__conv_plan *plan, int n,
                                  const float *x, float *padded) {
    cnn__f_pad f = {plan->padding, x, padded};
    f.v.by_plane = cnn__div_by((unsigned)plan->s.x_plane);
    f.v.by_row = cnn__div_by((unsigned)plan->s.w);
    return cnn__launch_map(where, stream, f,
                           (size_t)n * (size_t)(plan->s.groups * plan->s.c) * (size_t)plan->s.x_plane);
}

static cnn_status cnn__launch_unpad(const char *where, cudaStream_t stream, const cnn__conv_plan *plan, int n,
                                    const float *padded, float *dx) {
    cnn__f_unpad f = {plan->padding, padded, dx};
    f.v.by_plane = cnn__div_by((unsigned)(plan->padding.h * plan->padding.w));
    f.v.by_row = cnn__div_by((unsigned)plan->padding.w);
    return cnn__launch_map(where, stream, f, (size_t)n * cnn__image_x(plan));
}

/* The product that y or dx is, but for its pointers: of all images of s, its grid that of the result, or of
   the phases merged. */
template <class A, class B>
static cnn__conv_product<A, B> cnn__conv_product_make(const cnn__shape *s, const cnn__packing *v) {
    cnn__conv_product<A, B> p;
    cnn__look *b = &p.b;
    memset(&p, 0, sizeof p);
    const int rows = v->merged ? (s->h - 1 + s->pt) / s->sh - s->pt / s->sh + 1 : v->back ? s->h : s->oh;
    const int columns = v->merged ? (s->w - 1 + s->pl) / s->sw - s->pl / s->sw + 1 : v->back ? s->w : s->ow;
    p.m = v->m;
    p.n = b->width = (unsigned)(s->n * rows * columns);
    p.k_end = (unsigned)v->steps;
    p.a.pitch = v->tf32 ? 8 * v->width : v->width;
    p.a.width = (unsigned)v->width;
    p.a.vector = 1;
    p.a_group = (ptrdiff_t)v->steps * v->width;
    p.plane = v->back ? s->x_plane : s->y_plane;
    p.h = v->back ? s->h : s->oh;
    p.w = v->back ? s->w : s->ow;
    p.to_group = (ptrdiff_t)(v->back ? s->c : s->o) * p.plane;
    p.to_image = s->groups * p.to_group;
    b->h = v->back ? s->oh : s->h;
    b->w = v->back ? s->ow : s->w;
    const int plane = v->back ? s->y_plane : s->x_plane;
    b->channels = v->channels;
    b->plane = v->tf32 ? 1 : plane;
    b->column = v->tf32 ? v->channels : 1;
    b->row = b->w * b->column;
    b->image = v->tf32 ? (ptrdiff_t)plane * v->channels : (ptrdiff_t)s->groups * v->channels * plane;
    p.b_group = (v->tf32 ? (ptrdiff_t)s->n : 1) * v->channels * plane;
    p.b.set_elements((unsigned)(v->steps / v->channels));
    b->tabled = v->tabled;
    b->by_channels = cnn__div_by((unsigned)v->channels);
    b->by_grid = cnn__div_by((unsigned)(rows * columns));
    b->by_row = cnn__div_by((unsigned)columns);
    b->by_bs = cnn__div_by((unsigned)s->kw);
    b->si = b->sj = p.si = p.sj = 1;
    if (v->merged) {
        p.merged = v->merged;
        p.si = s->sh;
        p.sj = s->sw;
        b->i0 = s->pt / s->sh;
        b->j0 = s->pl / s->sw;
        p.i0 = b->i0 * s->sh - s->pt;
        p.j0 = b->j0 * s->sw - s->pl;
        b->di = b->dj = -1;
        b->by_bs = cnn__div_by((unsigned)((s->kw + s->sw - 1) / s->sw));
    } else if (v->back) {
        p.phases = s->sh * s->sw;
        p.si = s->sh;
        p.sj = s->sw;
        p.s = *s;
    } else {
        b->si = s->sh;
        b->sj = s->sw;
        b->i0 = -s->pt;
        b->j0 = -s->pl;
        b->di = s->dh;
        b->dj = s->dw;
    }
    return p;
}

/* Whether a kernel looks at each pixel alone, for itself. */
static int cnn__conv_pointwise(const cnn__shape *s) {
    return s->kh * s->kw * s->sh * s->sw == 1 && s->pt == 0 && s->pl == 0 && s->h == s->oh && s->w == s->ow;
}

/* The most columns that a phase has. */
static unsigned cnn__conv_columns(const cnn__shape *s, int phases, unsigned n) {
    return phases > 1 ? (unsigned)(s->n * ((s->h + s->sh - 1) / s->sh) * ((s->w + s->sw - 1) / s->sw)) : n;
}

/* Packs the weights and multiplies; images at a time, from and to being of all. */
static cnn_status cnn__launch_conv_product(const char *where, cudaStream_t stream, const cnn__shape *s,
                                           int back, const float *from, const float *w, const float *bias,
                                           int activation, float *packed, float *to) {
    const cnn__packing v = cnn__packing_make(s, back, 0);
    const cnn__f_conv_pack pack = {*s,
                                   back,
                                   v.merged,
                                   0,
                                   cnn__div_by((unsigned)v.width),
                                   cnn__div_by((unsigned)v.steps),
                                   cnn__div_by((unsigned)v.channels),
                                   w,
                                   packed};
    cnn__conv_product<cnn__by_row, cnn__look> p = cnn__conv_product_make<cnn__by_row, cnn__look>(s, &v);
    CNN__TRY(cnn__launch_map(where, stream, pack, v.floats));
    p.a.from = packed;
    p.b.from = from;
    p.to = to;
    p.bias = bias;
    p.activation = activation;
    p.b.vector = cnn__conv_pointwise(s) && !v.tabled && cnn__by_16(from, (size_t)s->x_plane);
    p.vector = p.phases <= 1 && !p.merged && cnn__by_16(to, (size_t)p.plane);
    return cnn__launch_product_plain(where, stream, p, p.m, cnn__conv_columns(s, p.phases, p.n), s->groups,
                                     p.phases ? p.phases : 1);
}

static cnn_status cnn__launch_inner(const char *where, cudaStream_t stream, const float *x, int n, int groups,
                                    int channels, int inner, int plane, float *to) {
    const dim3 grid((unsigned)(n * groups) * (unsigned)cnn__pieces((size_t)plane, 32),
                    (unsigned)(inner / 32)),
        block(32, 8);
    CNN__RUN(where, cnn__gpu_inner, grid, block, 32 * 33 * sizeof(float), stream, x, n, groups, channels,
             inner, plane, to);
    return CNN_OK;
}

static int cnn__conv_tf32(const cnn__shape *s, int back) {
    const int pixels = back ? s->x_plane / (s->sh * s->sw) : s->y_plane;
    return cnn__conv_inner(s, back) && cnn__tf32_wanted(back ? s->c : s->o, (unsigned)(s->n * pixels));
}

/* The same on tensor cores. scratch: packed weights, then images with channels innermost. */
static cnn_status cnn__launch_conv_tf32(const char *where, cudaStream_t stream, const cnn__shape *whole,
                                        int back, const float *from, const float *w, const float *bias,
                                        int activation, float *scratch, float *to) {
    const cnn__packing v = cnn__packing_make(whole, back, 1);
    const cnn__f_conv_pack pack = {*whole,
                                   back,
                                   0,
                                   1,
                                   cnn__div_by((unsigned)v.width * 8),
                                   cnn__div_by((unsigned)v.steps / 8),
                                   cnn__div_by((unsigned)v.channels),
                                   w,
                                   scratch};
    float *const inner = scratch + v.floats;
    const int at_once = cnn__inner_at_once(whole, &v, whole->n), channels = back ? whole->o : whole->c;
    const int plane = back ? whole->y_plane : whole->x_plane;
    CNN__TRY(cnn__launch_map(where, stream, pack, v.floats));
    for (int i = 0; i < whole->n; i += at_once) {
        cnn__shape s = *whole;
        s.n = cnn__min(at_once, whole->n - i);
        cnn__conv_product<cnn__by_fragment, cnn__look_inner> p =
            cnn__conv_product_make<cnn__by_fragment, cnn__look_inner>(&s, &v);
        CNN__TRY(cnn__launch_inner(where, stream,
                                   from + (size_t)i * (size_t)(s.groups * channels) * (size_t)plane, s.n,
                                   s.groups, channels, v.channels, plane, inner));
        p.a.from = scratch;
        p.b.from = inner;
        p.to = to + (ptrdiff_t)i * p.to_image;
        p.bias = bias;
        p.activation = activation;
        p.vector = p.phases <= 1 && cnn__by_16(p.to, (size_t)p.plane);
        CNN__TRY(cnn__launch_product_tf32(where, stream, p, p.m, cnn__conv_columns(&s, p.phases, p.n),
                                          s.groups, p.phases ? p.phases : 1));
    }
    return CNN_OK;
}

/* y, or with `back` dx, which is a convolution of dy; scratch: cnn__wino_scratch. */
static cnn_status cnn__launch_wino(const char *where, cudaStream_t stream, const cnn__shape *s, int back,
                                   const float *x, const float *w, const float *bias, int activation,
                                   float *scratch, float *y) {
    const int rows = back ? s->c : s->o, steps = back ? s->o : s->c;
    const int at_once = cnn__wino_at_once(s, s->n),
              images = (int)cnn__pieces((size_t)s->n, cnn__pieces((size_t)s->n, (size_t)at_once));
    const int width = (int)cnn__round_up((size_t)rows, 4);
    const cnn__f_wino_weight weight = {s->o, s->c, back, cnn__div_by((unsigned)width), w, scratch};
    float *const v = scratch + (size_t)36 * (size_t)steps * (size_t)width;
    CNN__TRY(cnn__launch_map(where, stream, weight, (size_t)steps * (size_t)width));
    for (int i = 0; i < s->n; i += images) {
        const int n = cnn__min(images, s->n - i);
        const cnn__tiling from = back ? cnn__tiling_make(s, n, s->o, s->oh, s->ow, 2 - s->pt, 2 - s->pl)
                                      : cnn__tiling_make(s, n, s->c, s->h, s->w, s->pt, s->pl);
        const cnn__tiling to = cnn__tiling_make(s, n, rows, back ? s->h : s->oh, back ? s->w : s->ow, 0, 0);
        const size_t pitch = from.pitch, of_v = (size_t)steps * pitch, of_m = (size_t)rows * pitch;
        float *const m = v + 36 * of_v;
        const cnn__f_wino_input<6> input = {from, x + (size_t)i * (size_t)steps * (size_t)(from.h * from.w),
                                            v};
        const cnn__f_wino_output output = {to, m, bias, activation,
                                           y + (size_t)i * (size_t)rows * (size_t)(to.h * to.w)};
        cnn__matrix<cnn__by_row, cnn__by_row> p =
            cnn__matrix_make(cnn__by_row_make(scratch, width), cnn__by_row_make(v, (int)pitch), rows,
                             (unsigned)pitch, (unsigned)steps, m, (ptrdiff_t)pitch);
        p.vector = cnn__by_16(m, pitch);
        p.a_group = (ptrdiff_t)steps * width;
        p.b_group = (ptrdiff_t)of_v;
        p.y_group = (ptrdiff_t)of_m;
        CNN__TRY(cnn__launch_map(where, stream, input, of_v));
        CNN__TRY(cnn__launch_product(where, stream, p, rows, (unsigned)pitch, 36, 1));
        CNN__TRY(cnn__launch_map(where, stream, output, of_m));
    }
    return CNN_OK;
}

static cnn_status cnn__launch_conv_any(const char *where, cudaStream_t stream, const cnn__conv_plan *plan,
                                       const cnn__shape *s, int back, const float *from, const float *w,
                                       const float *bias, int activation, float *scratch, float *to) {
    if (cnn__conv_tf32(s, back))
        return cnn__launch_conv_tf32(where, stream, s, back, from, w, bias, activation, scratch, to);
    if (plan->wino[back ? CNN__DX : CNN__Y])
        return cnn__launch_wino(where, stream, s, back, from, w, bias, activation, scratch, to);
    return cnn__launch_conv_product(where, stream, s, back, from, w, bias, activation, scratch, to);
}

/* sums: 36*o*c floats for each slice. */
static cnn_status cnn__launch_wino_dw(const char *where, cudaStream_t stream, const cnn__shape *s, int slices,
                                      const float *x, const float *dy, float *v, float *sums, int accumulate,
                                      float *dw) {
    const int at_once = cnn__wino_at_once(s, s->n),
              images = (int)cnn__pieces((size_t)s->n, cnn__pieces((size_t)s->n, (size_t)at_once));
    const size_t pairs = (size_t)s->o * (size_t)s->c;
    const size_t most = cnn__round_up((size_t)(images * cnn__wino_tiles(s)), 4);
    const unsigned slice_k = (unsigned)cnn__round_up(cnn__pieces(most, (size_t)slices), 16);
    for (int i = 0; i < s->n; i += images) {
        const int n = cnn__min(images, s->n - i);
        const cnn__tiling from = cnn__tiling_make(s, n, s->c, s->h, s->w, s->pt, s->pl);
        const cnn__tiling at = cnn__tiling_make(s, n, s->o, s->oh, s->ow, 0, 0);
        const size_t pitch = from.pitch, of_x = (size_t)s->c * pitch, of_dy = (size_t)s->o * pitch;
        float *const d = v + 36 * of_x;
        const cnn__f_wino_input<6> input = {from, x + (size_t)i * (size_t)s->c * (size_t)s->x_plane, v};
        const cnn__f_wino_input<4> gradient = {at, dy + (size_t)i * (size_t)s->o * (size_t)s->y_plane, d};
        cnn__matrix<cnn__by_k, cnn__by_k> p =
            cnn__matrix_make(cnn__by_k_make(d, s->o, (int)pitch), cnn__by_k_make(v, s->c, (int)pitch), s->o,
                             (unsigned)s->c, (unsigned)pitch, sums, s->c);
        p.slice_k = slice_k;
        p.a_group = (ptrdiff_t)of_dy;
        p.b_group = (ptrdiff_t)of_x;
        p.y_group = (ptrdiff_t)pairs;
        p.y_slice = 36 * p.y_group;
        p.accumulate = i > 0;
        CNN__TRY(cnn__launch_map(where, stream, input, of_x));
        CNN__TRY(cnn__launch_map(where, stream, gradient, of_dy));
        CNN__TRY(cnn__launch_product(where, stream, p, s->o, (unsigned)s->c, 36,
                                     (int)cnn__pieces(pitch, slice_k)));
    }
    const cnn__f_wino_kernel kernel = {sums, pairs, (int)cnn__pieces(most, slice_k), accumulate, dw};
    return cnn__launch_map(where, stream, kernel, pairs);
}

/* pad: plan->pad_floats of scratch. */
static cnn_status cnn__launch_conv(const char *where, cudaStream_t stream, const cnn__conv_plan *plan,
                                   const float *x, const float *w, const float *bias, int activation,
                                   float *pad, float *y) {
    for (int i = 0; i < plan->s.n; i += plan->at_once) {
        const cnn__shape s = cnn__plan_part(plan, i);
        const float *from = x + (size_t)i * cnn__image_x(plan);
        float *to = y + (size_t)i * cnn__image_y(plan);
        if (plan->padded) {
            CNN__TRY(cnn__launch_pad(where, stream, plan, s.n, from, pad));
            from = pad;
        }
        if (s.o < CNN__FEW_CHANNELS || s.groups > 65535) {
            const cnn__f_conv_y f = {s, from, w, bias, activation, to};
            CNN__TRY(cnn__launch_map(where, stream, f, (size_t)s.n * cnn__image_y(plan)));
        } else {
            CNN__TRY(cnn__launch_conv_any(where, stream, plan, &s, 0, from, w, bias, activation,
                                          pad + plan->padded_floats, to));
        }
    }
    return CNN_OK;
}

static cnn_status cnn__launch_conv_dx(const char *where, cudaStream_t stream, const cnn__conv_plan *plan,
                                      const float *w, const float *dy, float *pad, float *dx) {
    for (int i = 0; i < plan->s.n; i += plan->at_once) {
        const cnn__shape s = cnn__plan_part(plan, i);
        const float *from = dy + (size_t)i * cnn__image_y(plan);
        float *own = dx + (size_t)i * cnn__image_x(plan), *to = plan->padded ? pad : own;
        const int rows = cnn__packing_make(&s, 1, 0).m;
        if (rows < CNN__FEW_CHANNELS || s.groups > 65535 || (double)s.sh * s.sw > 65535) {
            const cnn__f_conv_dx f = {s,
                                      cnn__div_by((unsigned)s.x_plane),
                                      cnn__div_by((unsigned)s.w),
                                      cnn__div_by((unsigned)s.sh),
                                      cnn__div_by((unsigned)s.sw),
                                      w,
                                      from,
                                      to};
            CNN__TRY(cnn__launch_map(where, stream, f,
                                     (size_t)s.n * (size_t)(s.groups * s.c) * (size_t)s.x_plane));
        } else {
            CNN__TRY(cnn__launch_conv_any(where, stream, plan, &s, 1, from, w, NULL, 0,
                                          pad + plan->padded_floats, to));
        }
        if (plan->padded)
            CNN__TRY(cnn__launch_unpad(where, stream, plan, s.n, to, own));
    }
    return CNN_OK;
}

/* dw of so many images at a time, in slices. */
static cnn_status cnn__launch_dw_product(const char *where, cudaStream_t stream, const cnn__shape *s,
                                         int slices, const float *x, const float *dy, float *part, int add,
                                         float *dw) {
    const size_t weights = (size_t)(s->groups * s->o) * (size_t)s->steps;
    const unsigned pixels = (unsigned)(s->n * s->y_plane);
    const unsigned slice_k = (unsigned)cnn__round_up(cnn__pieces(pixels, (size_t)slices), 16);
    const int used = (int)cnn__pieces(pixels, slice_k);
    const ptrdiff_t group = (ptrdiff_t)s->o * s->y_plane;
    cnn__by_k a = {dy,      s->y_plane,     s->groups * group,
                   s->by_y, (unsigned)s->o, cnn__by_16(dy, (size_t)s->y_plane)};
    cnn__look_k look = {x, (unsigned)s->steps, *s};
    cnn__matrix<cnn__by_k, cnn__look_k> p =
        cnn__matrix_make(a, look, s->o, (unsigned)s->steps, pixels, used > 1 ? part : dw, s->steps);
    p.slice_k = slice_k;
    p.a_group = group;
    p.b_group = (ptrdiff_t)s->c * s->x_plane;
    p.y_group = (ptrdiff_t)s->o * s->steps;
    p.y_slice = (ptrdiff_t)weights;
    p.accumulate = used == 1 && add;
    if (cnn__conv_pointwise(s)) {
        const cnn__by_k b = {x,       s->x_plane,     s->groups * p.b_group,
                             s->by_y, (unsigned)s->c, cnn__by_16(x, (size_t)s->x_plane)};
        cnn__matrix<cnn__by_k, cnn__by_k> q =
            cnn__matrix_make(a, b, s->o, (unsigned)s->steps, pixels, p.y, s->steps);
        q.slice_k = slice_k;
        q.a_group = p.a_group;
        q.b_group = p.b_group;
        q.y_group = p.y_group;
        q.y_slice = p.y_slice;
        q.accumulate = p.accumulate;
        CNN__TRY(cnn__launch_product(where, stream, q, s->o, (unsigned)s->steps, s->groups, used));
    } else {
        CNN__TRY(cnn__launch_product(where, stream, p, s->o, (unsigned)s->steps, s->groups, used));
    }
    if (used > 1) {
        const cnn__f_fold fold = {part, weights, used, add, dw};
        CNN__TRY(cnn__launch_map(where, stream, fold, weights));
    }
    return CNN_OK;
}

/* The same on tensor cores; inner: for images with channels innermost. */
static cnn_status cnn__launch_inner_dw(const char *where, cudaStream_t stream, const cnn__shape *whole,
                                       int slices, const float *x, const float *dy, float *inner, float *part,
                                       int add, float *dw) {
    const int at_once = cnn__inner_dw_at_once(whole, whole->n), elements = whole->kh * whole->kw;
    const int c = (int)cnn__round_up((size_t)whole->c, 32), o = (int)cnn__round_up((size_t)whole->o, 32);
    const size_t weights = cnn__inner_dw_weights(whole);
    const size_t most = (size_t)at_once * (size_t)whole->y_plane;
    const unsigned slice_k = (unsigned)cnn__round_up(cnn__pieces(most, (size_t)slices), 32);
    for (int i = 0; i < whole->n; i += at_once) {
        cnn__shape s = *whole;
        s.n = cnn__min(at_once, whole->n - i);
        const size_t of_x = (size_t)(s.groups * s.c) * (size_t)s.x_plane,
                     of_y = (size_t)(s.groups * s.o) * (size_t)s.y_plane;
        const unsigned pixels = (unsigned)(s.n * s.y_plane);
        float *const inner_y = inner + (size_t)(s.n * s.groups) * (size_t)s.x_plane * (size_t)c;
        CNN__TRY(
            cnn__launch_inner(where, stream, x + (size_t)i * of_x, s.n, s.groups, s.c, c, s.x_plane, inner));
        CNN__TRY(cnn__launch_inner(where, stream, dy + (size_t)i * of_y, s.n, s.groups, s.o, o, s.y_plane,
                                   inner_y));
        cnn__inner_row a;
        a.from = inner_y;
        a.pitch = o;
        a.width = (unsigned)o;
        a.vector = 1;
        const cnn__look_inner_k b = {inner, (unsigned)(elements * c), s, cnn__div_by((unsigned)c)};
        cnn__matrix<cnn__inner_row, cnn__look_inner_k> p =
            cnn__matrix_make(a, b, s.o, (unsigned)(elements * c), pixels, part, (ptrdiff_t)elements * c);
        p.slice_k = slice_k;
        p.a_group = (ptrdiff_t)pixels * o;
        p.b_group = (ptrdiff_t)s.n * s.x_plane * c;
        p.y_group = (ptrdiff_t)s.o * elements * c;
        p.y_slice = (ptrdiff_t)weights;
        p.accumulate = i > 0;
        CNN__TRY(cnn__launch_product_tf32(where, stream, p, s.o, (unsigned)(elements * c), s.groups,
                                          (int)cnn__pieces(pixels, slice_k)));
    }
    const cnn__f_fold_inner fold = {part,     weights, (int)cnn__pieces(most, slice_k), add, whole->c, c,
                                    elements, dw};
    return cnn__launch_map(where, stream, fold, (size_t)(whole->groups * whole->o) * (size_t)whole->steps);
}

/* dw and db, each unless NULL. pad: as above; part: plan->part_floats. */
static cnn_status cnn__launch_conv_dw(const char *where, cudaStream_t stream, const cnn__conv_plan *plan,
                                      const float *x, const float *dy, float *pad, float *part,
                                      int accumulate, float *dw, float *db) {
    const int tf32 = cnn__tf32_wanted(plan->s.o, (unsigned)plan->s.steps);
    const int slices = cnn__dw_slices(&plan->s, plan->at_once, tf32);
    for (int i = 0; i < plan->s.n; i += plan->at_once) {
        const cnn__shape s = cnn__plan_part(plan, i);
        const float *from = x + (size_t)i * cnn__image_x(plan), *d = dy + (size_t)i * cnn__image_y(plan);
        const size_t weights = (size_t)(s.groups * s.o) * (size_t)s.steps;
        const int add = accumulate || i;
        if (db) {
            float *db_part = part + plan->sums;
            const int channels = s.groups * s.o, db_slices = cnn__min(plan->db_slices, s.n);
            const cnn__f_fold fold = {db_part, (size_t)channels, db_slices, add, db};
            const dim3 grid((unsigned)channels, (unsigned)db_slices);
            CNN__RUN(where, cnn__gpu_channel_sum, grid, CNN__BLOCK, CNN__BLOCK * sizeof(double), stream, d,
                     s.n, channels, s.y_plane, db_part);
            CNN__TRY(cnn__launch_map(where, stream, fold, (size_t)channels));
        }
        if (!dw)
            continue;
        if (plan->padded) {
            CNN__TRY(cnn__launch_pad(where, stream, plan, s.n, from, pad));
            from = pad;
        }
        if (s.o < CNN__FEW_CHANNELS || s.groups > 65535) {
            const int few_slices = cnn__few_slices(&plan->s, plan->at_once);
            const unsigned slice_pixels =
                (unsigned)cnn__pieces((size_t)s.n * (size_t)s.y_plane, (size_t)few_slices);
            const dim3 grid((unsigned)(s.groups * s.o) *
                                (unsigned)cnn__pieces((size_t)s.steps, CNN__FEW_STEPS),
                            (unsigned)cnn__pieces((size_t)s.n * (size_t)s.y_plane, slice_pixels));
            const cnn__f_fold fold = {part, weights, (int)grid.y, add, dw};
            CNN__RUN(where, cnn__gpu_conv_dw, grid, CNN__BLOCK, CNN__BLOCK * sizeof(double), stream, s, from,
                     d, slice_pixels, part);
            CNN__TRY(cnn__launch_map(where, stream, fold, weights));
            continue;
        }
        if (tf32 && cnn__inner_dw(&s)) {
            CNN__TRY(cnn__launch_inner_dw(where, stream, &s, cnn__inner_dw_slices(&plan->s, plan->at_once),
                                          from, d, pad + plan->padded_floats, part, add, dw));
            continue;
        }
        if (plan->wino[CNN__DW] && !tf32) {
            CNN__TRY(cnn__launch_wino_dw(where, stream, &s, cnn__wino_slices(&plan->s, plan->at_once), from,
                                         d, pad + plan->padded_floats, part, add, dw));
            continue;
        }
        CNN__TRY(cnn__launch_dw_product(where, stream, &s, slices, from, d, part, add, dw));
    }
    return CNN_OK;
}

static cnn_status cnn__cuda_conv2d_forward(const char *where, cnn__conv *v, const cnn_tensor *x,
                                           const cnn_tensor *weight, const cnn_tensor *bias, cnn_tensor *y) {
    cnn__conv_plan plan;
    CNN__TRY(cnn__conv_plan_make(where, v, x->n, &plan));
    cnn__call c = cnn__call_begin(where, 0);
    const float *from = cnn__call_tensor(&c, x, CNN__IN), *w = cnn__call_tensor(&c, weight, CNN__IN);
    const float *b = cnn__call_tensor(&c, bias, CNN__IN);
    float *to = cnn__call_tensor(&c, y, CNN__OUT);
    float *pad = (float *)cnn__call_scratch(&c, plan.pad_floats * sizeof(float));
    CNN__THEN(c, cnn__launch_conv(where, c.stream, &plan, from, w, b, 0, pad, to));
    return cnn__call_end(&c);
}

static cnn_status cnn__cuda_conv2d_backward(const char *where, cnn__conv *v, const cnn_tensor *x,
                                            const cnn_tensor *weight, const cnn_tensor *dy, cnn_tensor *dx,
                                            cnn_tensor *dw, cnn_tensor *db) {
    cnn__conv_plan plan;
    CNN__TRY(cnn__conv_plan_make(where, v, x->n, &plan));
    cnn__call c = cnn__call_begin(where, 0);
    const float *from = cnn__call_tensor(&c, x, CNN__IN), *w = cnn__call_tensor(&c, weight, CNN__IN);
    const float *d = cnn__call_tensor(&c, dy, CNN__IN);
    float *to_x = cnn__call_tensor(&c, dx, CNN__OUT), *to_w = cnn__call_tensor(&c, dw, CNN__IN | CNN__OUT);
    float *to_b = cnn__call_tensor(&c, db, CNN__IN | CNN__OUT);
    float *pad =
        (float *)cnn__call_scratch(&c, (plan.pad_floats + (dw || db ? plan.part_floats : 0)) * sizeof(float));
    float *part = pad + plan.pad_floats;
    if (dx)
        CNN__THEN(c, cnn__launch_conv_dx(where, c.stream, &plan, w, d, pad, to_x));
    if (dw || db)
        CNN__THEN(c, cnn__launch_conv_dw(where, c.stream, &plan, from, d, pad, part, 1, to_w, to_b));
    return cnn__call_end(&c);
}

/* ---- networks ---- */

/* What a training or an evaluation adds up on the device; the first three start anew each epoch. */
typedef struct cnn__tally {
    double loss;
    long long correct, at; /* at: examples done */
    long long step, bad;   /* steps done since the start; the first whose loss was not finite, from 1, or 0 */
    long long now;         /* the step under way, for kernels that run while `step` is counted on */
} cnn__tally;

/* A data set on the device, or a batch of one. */
typedef struct cnn__resident {
    const unsigned char *bytes; /* either these */
    const float *floats;        /* or these */
    const unsigned char *labels;
    int features, classes;
} cnn__resident;

/* x and labels of a batch: examples index[at], index[at + 1], ..., at being the tally's. */
struct cnn__f_gather {
    cnn__resident data;
    const int *index;
    const cnn__tally *tally;
    float *x;
    int *labels;
    __device__ void operator()(size_t i) const {
        const size_t f = (size_t)data.features, sample = i / f, feature = i - sample * f;
        const size_t row = (size_t)tally->at + sample, from = index ? (size_t)index[row] : row;
        x[i] = data.bytes ? (float)data.bytes[from * f + feature] / 255.0f : data.floats[from * f + feature];
        if (feature == 0)
            labels[sample] = data.labels[from];
    }
};

/* Loss, prediction and, unless NULL, gradient of the mean loss of n samples. */
static __device__ double cnn__gpu_sample_loss(const float *x, int classes, int label, float scale, float *d,
                                              int *best) {
    float max = x[0], sum = 0;
    *best = 0;
    for (int k = 1; k < classes; k++) {
        *best = x[k] > x[*best] ? k : *best;
        max = x[k] > max || x[k] != x[k] ? x[k] : max;
    }
    for (int k = 0; k < classes; k++)
        sum += expf(x[k] - max);
    const double loss = log((double)sum) + ((double)max - (double)x[label]);
    for (int k = 0; d && k < classes; k++)
        d[k] = (expf(x[k] - max) / sum - (k == label ? 1.0f : 0.0f)) * scale;
    return loss;
}

struct cnn__f_loss {
    const float *logits;
    const int *labels;
    int classes;
    float scale;
    float *d;
    double *loss;
    int *right, *confusion;
    __device__ void operator()(size_t i) const {
        int best = 0;
        const size_t at = i * (size_t)classes;
        loss[i] = cnn__gpu_sample_loss(logits + at, classes, labels[i], scale, d ? d + at : NULL, &best);
        right[i] = best == labels[i];
        if (confusion)
            atomicAdd(&confusion[labels[i] * classes + best], 1);
    }
};

struct cnn__f_predict {
    const float *y;
    int classes, *best;
    __device__ void operator()(size_t i) const {
        const float *row = y + i * (size_t)classes;
        int k = 0;
        for (int j = 1; j < classes; j++)
            k = row[j] > row[k] ? j : k;
        best[i] = k;
    }
};

/* Adds a batch to the tally and ends a step; by one block. shared: two doubles a thread. */
static __device__ void cnn__gpu_add_batch(const double *loss, const int *right, int n, cnn__tally *tally,
                                          double *shared) {
    double sum = 0, correct = 0;
    for (int i = (int)threadIdx.x; i < n; i += (int)blockDim.x) {
        sum += loss[i];
        correct += right[i];
    }
    sum = cnn__gpu_block_sum(sum, shared);
    correct = cnn__gpu_block_sum(correct, shared + blockDim.x);
    if (threadIdx.x)
        return;
    tally->loss += sum;
    tally->correct += (long long)correct;
    tally->at += n;
    tally->step++;
    if (!tally->bad && !(sum >= -DBL_MAX && sum <= DBL_MAX))
        tally->bad = tally->step;
}

static __global__ void cnn__gpu_tally(const double *loss, const int *right, int n, cnn__tally *tally) {
    CNN__SHARED(double, shared);
    cnn__gpu_add_batch(loss, right, n, tally, shared);
}

/* The learning rate of a step; last: the number of the last step of all, lr_end 0: constant. */
typedef struct cnn__rule {
    cnn_sgd_options sgd;
    float lr_end;
    double last;
} cnn__rule;

static __device__ __forceinline__ float cnn__gpu_rate(const cnn__rule &r, long long step) {
    return r.lr_end > 0 && r.last > 0 ? r.sgd.lr + (r.lr_end - r.sgd.lr) * (float)((double)step / r.last)
                                      : r.sgd.lr;
}

struct cnn__f_fit_sgd {
    cnn__rule rule;
    const cnn__tally *tally;
    float *parameters;
    const float *gradients;
    float *velocity;
    __device__ void operator()(size_t i) const {
        parameters[i] = cnn__gpu_sgd(rule.sgd, cnn__gpu_rate(rule, tally->step), parameters[i], gradients[i],
                                     velocity + i);
    }
};

typedef struct cnn__gpu_layer {
    size_t in, out; /* elements of one example */
    int alias;      /* works in place */
    float *x, *y;
    int *indices; /* of max pooling */
    cnn__conv conv;
    cnn__pool pool;
} cnn__gpu_layer;

struct cnn__fused;

/* Activations, gradients of them and scratch of a network for up to `batch` examples: one piece of device
   memory, planned here once. */
typedef struct cnn__gpu_net {
    const cnn_net *net; /* its shape; the parameters may be another's */
    cudaStream_t stream;
    int training, batch;
    struct cnn__fused *fused; /* NULL: layer by layer */
    void *memory, *pinned;
    cnn__gpu_layer *layer;
    float *input, *gradient[2], *pad, *part;
    int *labels, *right;
    double *losses;
    cnn__tally *tally, *report;        /* on the device; pinned */
    unsigned char *staged, *staged_on; /* a batch of a data set on its way; pinned, and on the device */
} cnn__gpu_net;

/* ---- small networks ----

   Networks of the LeNet kind - convolutions with their activation and pool, then linear layers - train in
   four kernels a step: the convolutional stages forward, a block an image, from bytes to features in shared
   memory; the linear layers forward and backward with the loss, a block CNN__HEAD_ROWS images; the stages
   backward, a block an image; and the sum of the images' gradients of the convolutions, beside it tiles of
   the linear layers' weight gradients, all with the SGD step as their epilogue. What all images' blocks would
   work out again, where weights and pixels lie in shared memory, is kept: the step leaves the convolutions'
   weights packed as well, and tables hold the places. Threads keep tiles in registers, so that a value loaded
   from shared memory feeds at least four multiply-adds, and images lie in shared memory so that a thread
   loads aligned pairs of floats, the lanes of a warp from different banks. */

enum {
    CNN__MOST_STAGES = 4,
    CNN__MOST_LINEAR = 6,
    CNN__HEAD_ROWS = 4,
    CNN__FUSED_BLOCK = 512,   /* threads of these kernels */
    CNN__FUSED_BYTES = 65536, /* shared memory that every device since compute capability 7.5 has */
    CNN__TILE_ROWS = 16,      /* a block's tile of a linear layer's gradient */
    CNN__TILE_COLUMNS = 32,
    CNN__TILE_SUMS = CNN__TILE_ROWS * CNN__TILE_COLUMNS + CNN__TILE_ROWS /* and of its biases' */
};

/* A convolution of stride 1 on a padded image in shared memory, as its threads share it out: a thread has 2 x
   2 outputs of `rows` channels, or with its neighbours `split` shares of the input channels of such a tile.
   */
typedef struct cnn__tiled {
    int c, o, oh, ow, kh, kw;
    int pitch, plane;        /* of the image, in floats; even */
    int begin, end;          /* rows of the image that are no padding */
    int shift;               /* tiles begin so many columns before the outputs */
    int rows, tiles;         /* output channels of a thread: 4 or 3; groups of so many */
    int weights;             /* floats: [c][tile][a][b][4] */
    int split, log, items;   /* 1, 2 or 4; its logarithm; tiles times that */
    cnn__div by_map, by_row; /* tiles of a group of channels and of a row */
} cnn__tiled;

typedef struct cnn__stage {
    cnn__tiled y, dx;           /* forward; and dx, a convolution of the padded dy with the kernel turned */
    int h, w, pt, pl;           /* of the input */
    int activation, max;        /* max: the pool is of that kind, else it averages */
    int pool_h, pool_w, ph, pw; /* window, 1x1 without a pool, and result */
    int direct;                 /* a tile is a pool's window, or there is no pool */
    int top, left;              /* of the image of dy: zeros before it */
    /* dw: kernel elements of a thread, 5, 3 or 1; groups of so many, the last the biases'; slices of 4 rows
       */
    int taps, elements, slices;
    int weights, biases;         /* offsets in the parameters; biases -1: none */
    int in_at, w_at, scratch_at; /* shared memory, in floats: forward's, and backward's of dw */
    cnn__div by_steps, by_kernel, by_pooled, by_pw, by_input, by_w; /* c*kh*kw, kh*kw, ph*pw, pw, h*w, w */
    cnn__div by_slice, by_elements;                                 /* elements*tiles, elements */
    cnn__div by_taps, by_columns;                                   /* groups of a kernel and of its row */
    int pooled_pitch;
    int turned_from, pixels_from, windows_from; /* in `packed` and in `places` */
    /* Of all images, in device memory: what a convolution's result has of the gradient of the pool's, window
       by window; and the pool's results. */
    float *slopes, *pooled;
} cnn__stage;

typedef struct cnn__head_layer {
    int in, out, activation, weights, biases;
    int wide, groups;        /* rows of weights are aligned to 16 bytes; shares of the outputs in dx */
    int in_pitch, out_pitch; /* multiples of 4 */
    float *x, *dy;           /* rows of all images */
    int tiles_in, first_tile;
} cnn__head_layer;

typedef struct cnn__fused {
    int stages, layers, features, classes, conv_parameters, tiles;
    int c, h, w;
    int y_at, in_end;                               /* forward's shared memory, in floats */
    int dz_at, image_at, ones_at, ones, turned_at;  /* backward's */
    int x_at[CNN__MOST_LINEAR + 1], d_at, group_at; /* the head's, in float4 */
    int forward_bytes, head_bytes, backward_bytes;
    cnn__stage stage[CNN__MOST_STAGES];
    cnn__head_layer layer[CNN__MOST_LINEAR];
    float *d_features, *logits, *part;
    int *source;   /* which example an image of the batch is */
    float *packed; /* the convolutions' parameters as shared memory holds them: forward's, then those of dx */
    int *places;   /* where elements of inputs and windows of results lie in their images */
    int packed_count, places_count;
} cnn__fused;

/* What a step updates: parameters, by the rule, or the gradients alone where `step` is 0. */
typedef struct cnn__update {
    cnn__rule rule;
    int step;
    const cnn__tally *tally;
    float *parameters, *gradients, *velocity;
} cnn__update;

/* Returns, of a step, the parameter's new value. */
static __device__ __forceinline__ float cnn__gpu_apply(const cnn__update &u, int i, float g) {
    if (!u.step)
        return u.gradients[i] = g;
    return u.parameters[i] = cnn__gpu_sgd(u.rule.sgd, cnn__gpu_rate(u.rule, u.tally->now), u.parameters[i], g,
                                          u.velocity + i);
}

/* The error of a sigmoid above 1e-11 is below 2e-6 of it. */
static __device__ __forceinline__ float cnn__gpu_quick_activation(int kind, float x) {
    return kind == CNN_SIGMOID ? __fdividef(1.0f, 1.0f + __expf(-x)) : cnn__gpu_activation_call(kind, x);
}

static __device__ __forceinline__ float cnn__gpu_quick_slope(int kind, float y) {
    return kind == CNN_SIGMOID ? y * (1.0f - y) : cnn__gpu_slope(kind, y);
}

static __device__ __forceinline__ float cnn__gpu_part(const float4 &v, int i) {
    return i == 0 ? v.x : i == 1 ? v.y : i == 2 ? v.z : v.w;
}

/* sum += w * (2 x 2 inputs), for TO channels. */
template <int TO>
static __device__ __forceinline__ void cnn__gpu_tile_fma(float (&sum)[TO][4], const float *w, float x0,
                                                         float x1, float x2, float x3) {
    const float4 k = *(const float4 *)w;
    CNN__GPU_UNROLL
    for (int i = 0; i < TO; i++) {
        const float v = cnn__gpu_part(k, i);
        sum[i][0] = fmaf(v, x0, sum[i][0]);
        sum[i][1] = fmaf(v, x1, sum[i][1]);
        sum[i][2] = fmaf(v, x2, sum[i][2]);
        sum[i][3] = fmaf(v, x3, sum[i][3]);
    }
}

/* The sums of a tile whose first row is y, over every split-th input channel; in: at its corner. K: the
   kernel's rows and columns, or 0 for any. SKIP: leaves out rows of it that meet padding alone. */
template <int TO, int K, int SKIP>
static __device__ __forceinline__ void cnn__gpu_tile(const cnn__tiled &v, const float *in, const float *w,
                                                     int y, int share, float (&sum)[TO][4]) {
    const int begin = v.begin - 1 - y, end = v.end - y, kh = K ? K : v.kh, kw = K ? K : v.kw;
    for (int c = share; c < v.c; c += v.split) {
        const float *row = in + c * v.plane, *k = w + c * v.tiles * kh * kw * 4;
        float x[2][K + 1];
        CNN__GPU_UNROLL
        for (int j = 0; K && j < K + 1; j += 2) {
            const float2 pair = *(const float2 *)(row + j);
            x[0][j] = pair.x;
            x[0][j + !!K] = pair.y;
        }
        CNN__GPU_UNROLL
        for (int a = 0; a < K; a++) {
            CNN__GPU_UNROLL
            for (int j = 0; j < K + 1; j += 2) {
                const float2 pair = *(const float2 *)(row + (a + 1) * v.pitch + j);
                x[(a + 1) % 2][j] = pair.x;
                x[(a + 1) % 2][j + !!K] = pair.y;
            }
            if (SKIP && (a < begin || a >= end))
                continue;
            CNN__GPU_UNROLL
            for (int b = 0; b < K; b++)
                cnn__gpu_tile_fma<TO>(sum, k + (a * K + b) * 4, x[a % 2][b], x[a % 2][b + 1],
                                      x[(a + 1) % 2][b], x[(a + 1) % 2][b + 1]);
        }
        for (int a = 0; !K && a < kh; a++, row += v.pitch)
            for (int b = 0; b < kw; b++, k += 4)
                cnn__gpu_tile_fma<TO>(sum, k, row[b], row[b + 1], row[v.pitch + b], row[v.pitch + b + 1]);
    }
}

/* Channel, row and column of an element; division by a variable would take longer than what is done with it.
   */
typedef struct cnn__element {
    int c, i, j;
} cnn__element;

static __device__ __forceinline__ cnn__element cnn__gpu_element(int at, const cnn__div &by_plane,
                                                                const cnn__div &by_row) {
    const unsigned plane = cnn__quotient((unsigned)at, by_plane), p = (unsigned)at - plane * by_plane.d;
    const unsigned row = cnn__quotient(p, by_row);
    const cnn__element e = {(int)plane, (int)row, (int)(p - row * by_row.d)};
    return e;
}

/* put(channel, row, column, 2 x 2 values) for all tiles; of those that threads share, each puts some
   channels. w: [c][tile][a][b], 4 floats each. */
template <int TO, int K, class F>
static __device__ __forceinline__ void cnn__gpu_tiled(const cnn__tiled &v, const float *in, const float *w,
                                                      const F &put) {
    const int t = cnn__gpu_thread(), share = t & (v.split - 1);
    for (int item = t; item - t % 32 < v.items; item += CNN__FUSED_BLOCK) {
        const int tile = (item < v.items ? item : v.items - 1) >> v.log;
        const cnn__element e = cnn__gpu_element(tile, v.by_map, v.by_row);
        float sum[TO][4];
        CNN__GPU_UNROLL
        for (int i = 0; i < TO; i++)
            sum[i][0] = sum[i][1] = sum[i][2] = sum[i][3] = 0;
        cnn__gpu_tile<TO, K, F::SKIP>(v, in + 2 * (e.i * v.pitch + e.j), w + e.c * v.kh * v.kw * 4, 2 * e.i,
                                      share, sum);
        for (int other = 1; other < v.split; other *= 2) {
            CNN__GPU_UNROLL
            for (int i = 0; i < TO * 4; i++)
                sum[i / 4][i % 4] += __shfl_xor_sync(0xffffffffu, sum[i / 4][i % 4], other);
        }
        for (int i = share; i < TO && item < v.items; i += v.split) {
            float4 value = make_float4(sum[0][0], sum[0][1], sum[0][2], sum[0][3]);
            CNN__GPU_UNROLL
            for (int k = 1; k < TO; k++)
                if (i == k)
                    value = make_float4(sum[k][0], sum[k][1], sum[k][2], sum[k][3]);
            if (e.c * TO + i < v.o)
                put(e.c * TO + i, 2 * e.i, 2 * e.j, value);
        }
    }
}

template <int TO, class F>
static __device__ __forceinline__ void cnn__gpu_tiled_kernel(const cnn__tiled &v, const float *in,
                                                             const float *w, const F &put) {
    if (v.kw == 5 && v.kh == 5)
        cnn__gpu_tiled<TO, 5>(v, in, w, put);
    else if (v.kw == 3 && v.kh == 3)
        cnn__gpu_tiled<TO, 3>(v, in, w, put);
    else
        cnn__gpu_tiled<TO, 0>(v, in, w, put);
}

template <class F>
static __device__ void cnn__gpu_tiled_conv(const cnn__tiled &v, const float *in, const float *w,
                                           const F &put) {
    if (v.rows == 4)
        cnn__gpu_tiled_kernel<4>(v, in, w, put);
    else
        cnn__gpu_tiled_kernel<3>(v, in, w, put);
}

/* Where a tile's outputs go: dx, by itself. */
struct cnn__put_plane {
    enum { SKIP = 1 };
    int oh, ow, shift;
    float *to;
    __device__ __forceinline__ void operator()(int o, int i, int j, const float4 &v) const {
        CNN__GPU_UNROLL
        for (int k = 0; k < 4; k++) {
            const int row = i + k / 2, column = j + k % 2 - shift;
            if (row < oh && column >= 0 && column < ow)
                to[(o * oh + row) * ow + column] = cnn__gpu_part(v, k);
        }
    }
};

/* Where results of a stage go: `slopes` and `pooled`, NULL if nothing reads them, and the image of the next
   stage, NULL behind the last. */
typedef struct cnn__stage_results {
    float *slopes, *pooled, *next;
    int pitch, plane; /* of the next stage's image */
} cnn__stage_results;

static __device__ __forceinline__ void cnn__gpu_put_pooled(const cnn__stage_results &to, int ph, int pw,
                                                           int o, int i, int j, float value) {
    if (to.next)
        to.next[o * to.plane + i * to.pitch + j] = value;
    if (to.pooled)
        to.pooled[(o * ph + i) * pw + j] = value;
}

/* Results by way of the activation and a pool of 2x2, if there is one; those of another pool into y. */
struct cnn__put_stage {
    enum { SKIP = 0 };
    int direct, pool, max, activation, oh, ow, ph, pw;
    const float *bias;
    float *y;
    cnn__stage_results to;
    __device__ __forceinline__ void operator()(int o, int i, int j, const float4 &v) const {
        if (!direct) {
            const cnn__put_plane plane = {oh, ow, 0, y};
            plane(o, i, j, v);
            return;
        }
        const float b = bias ? bias[o] : 0.0f;
        float r[4], slope[4];
        CNN__GPU_UNROLL
        for (int k = 0; k < 4; k++)
            r[k] = cnn__gpu_quick_activation(activation, cnn__gpu_part(v, k) + b);
        CNN__GPU_UNROLL
        for (int k = 0; k < 4 && to.slopes; k++)
            slope[k] = cnn__gpu_quick_slope(activation, r[k]);
        if (pool) {
            const int at = (o * ph + i / 2) * pw + j / 2;
            int best = 0;
            float most = r[0];
            CNN__GPU_UNROLL
            for (int k = 1; k < 4; k++)
                if (r[k] > most || r[k] != r[k]) {
                    best = k;
                    most = r[k];
                }
            CNN__GPU_UNROLL
            for (int k = 0; k < 4 && to.slopes; k++)
                slope[k] *= !max ? 0.25f : k == best ? 1.0f : 0.0f;
            if (to.slopes)
                *(float4 *)(to.slopes + 4 * at) = make_float4(slope[0], slope[1], slope[2], slope[3]);
            cnn__gpu_put_pooled(to, ph, pw, o, i / 2, j / 2, max ? most : (r[0] + r[1] + (r[2] + r[3])) / 4);
            return;
        }
        CNN__GPU_UNROLL
        for (int k = 0; k < 4; k++) {
            const int row = i + k / 2, column = j + k % 2;
            if (row >= oh || column >= ow)
                continue;
            if (to.slopes)
                to.slopes[(o * oh + row) * ow + column] = slope[k];
            cnn__gpu_put_pooled(to, oh, ow, o, row, column, r[k]);
        }
    }
};

/* Pools of any window, from y, which then holds the activations. */
static __device__ void cnn__gpu_stage_pool(const cnn__stage &s, float *y, const float *bias,
                                           const cnn__stage_results &to) {
    const int area = s.pool_h * s.pool_w;
    for (int i = cnn__gpu_thread(); i < s.y.o * s.ph * s.pw; i += CNN__FUSED_BLOCK) {
        const cnn__element e = cnn__gpu_element(i, s.by_pooled, s.by_pw);
        const float b = bias ? bias[e.c] : 0.0f;
        float *window = y + (e.c * s.y.oh + e.i * s.pool_h) * s.y.ow + e.j * s.pool_w;
        float value = s.max ? -INFINITY : 0.0f;
        int best = 0;
        for (int k = 0; k < area; k++) {
            float *at = window + k / s.pool_w * s.y.ow + k % s.pool_w;
            const float v = *at = cnn__gpu_quick_activation(s.activation, *at + b);
            best = v > value || v != v ? k : best;
            value = !s.max ? value + v : v > value || v != v ? v : value;
        }
        for (int k = 0; to.slopes && k < area; k++) {
            const float v = window[k / s.pool_w * s.y.ow + k % s.pool_w];
            to.slopes[i * area + k] = cnn__gpu_quick_slope(s.activation, v) * (!s.max ? 1.0f / (float)area
                                                                               : k == best ? 1.0f
                                                                                           : 0.0f);
        }
        cnn__gpu_put_pooled(to, s.ph, s.pw, e.c, e.i, e.j, s.max ? value : value / (float)area);
    }
}

/* Floats, or bytes that are 255 times them: the quotient, rounded as by division. */
struct cnn__f_values {
    const unsigned char *bytes; /* either these */
    const float *floats;        /* or these */
    __device__ __forceinline__ float operator()(int i) const {
        if (!bytes)
            return floats[i];
        const float value = (float)bytes[i], q = value * (1.0f / 255.0f);
        return fmaf(fmaf(-q, 255.0f, value), 1.0f / 255.0f, q);
    }
};

/* to[places[i]] = from(i) for i < n: several loads, then their stores, so that one waits for all. */
static __device__ __forceinline__ void cnn__gpu_scatter(const cnn__f_values &from, int n, const int *places,
                                                        float *to) {
    enum { TURNS = 2 };
    for (int first = cnn__gpu_thread(); first < n; first += TURNS * CNN__FUSED_BLOCK) {
        float v[TURNS];
        int place[TURNS];
        CNN__GPU_UNROLL
        for (int k = 0; k < TURNS; k++) {
            const int i = first + k * CNN__FUSED_BLOCK;
            v[k] = i < n ? from(i) : 0.0f;
            place[k] = i < n ? places[i] : 0;
        }
        CNN__GPU_UNROLL
        for (int k = 0; k < TURNS; k++)
            if (first + k * CNN__FUSED_BLOCK < n)
                to[place[k]] = v[k];
    }
}

/* n floats, a multiple of 4, aligned to 16 bytes. */
static __device__ __forceinline__ void cnn__gpu_copy4(const float *from, int n, float *to) {
    enum { TURNS = 2 };
    for (int first = cnn__gpu_thread() * 4; first < n; first += TURNS * CNN__FUSED_BLOCK * 4) {
        float4 v[TURNS];
        CNN__GPU_UNROLL
        for (int k = 0; k < TURNS; k++) {
            const int i = first + k * CNN__FUSED_BLOCK * 4;
            v[k] = *(const float4 *)(from + (i < n ? i : first));
        }
        CNN__GPU_UNROLL
        for (int k = 0; k < TURNS; k++)
            if (first + k * CNN__FUSED_BLOCK * 4 < n)
                *(float4 *)(to + first + k * CNN__FUSED_BLOCK * 4) = v[k];
    }
}

/* Of a tile's weights, [c][tile][a*kw + b], channel o's. */
static __device__ __forceinline__ int cnn__gpu_in_tiles(const cnn__tiled &v, int c, int o, int ab) {
    const int tile = v.rows == 4 ? o / 4 : o / 3;
    return ((c * v.tiles + tile) * v.kh * v.kw + ab) * 4 + o - tile * v.rows;
}

/* Puts parameter i of the convolutions into its places among the packed. */
static __device__ __forceinline__ void cnn__gpu_pack(const cnn__fused &f, int i, float value) {
    int k = f.stages - 1;
    while (i < f.stage[k].weights)
        k--;
    const cnn__stage &s = f.stage[k];
    float *forward = f.packed + s.w_at - f.in_end;
    if (s.biases >= 0 && i >= s.biases) {
        forward[s.y.weights + i - s.biases] = value;
        return;
    }
    const cnn__element e = cnn__gpu_element(i - s.weights, s.by_steps, s.by_kernel); /* o, c, a*kw + b */
    forward[cnn__gpu_in_tiles(s.y, e.i, e.c, e.j)] = value;
    if (k)
        f.packed[s.turned_from + cnn__gpu_in_tiles(s.dx, e.c, e.i, (int)s.by_kernel.d - 1 - e.j)] = value;
}

/* Packs all parameters, and works out the places. */
struct cnn__f_pack {
    cnn__fused f;
    const float *parameters;
    __device__ void operator()(size_t i) const {
        if (i < (size_t)f.conv_parameters) {
            cnn__gpu_pack(f, (int)i, parameters[i]);
            return;
        }
        const int at = (int)(i - (size_t)f.conv_parameters);
        int k = f.stages - 1;
        while (at < f.stage[k].pixels_from)
            k--;
        const cnn__stage &s = f.stage[k];
        const int window = at >= s.windows_from;
        const cnn__element e = window ? cnn__gpu_element(at - s.windows_from, s.by_pooled, s.by_pw)
                                      : cnn__gpu_element(at - s.pixels_from, s.by_input, s.by_w);
        f.places[at] =
            window ? e.c * s.dx.plane + (e.i * s.pool_h + s.top) * s.dx.pitch + e.j * s.pool_w + s.left
                   : e.c * s.y.plane + (e.i + s.pt) * s.y.pitch + e.j + s.pl;
    }
};

static __device__ __forceinline__ cnn__f_values cnn__gpu_example_values(const cnn__resident &data,
                                                                        size_t from) {
    const size_t at = from * (size_t)data.features;
    const cnn__f_values v = {data.bytes ? data.bytes + at : NULL, data.bytes ? NULL : data.floats + at};
    return v;
}

/* n, a multiple of 4, floats. */
static __device__ __forceinline__ void cnn__gpu_clear(float *p, int n) {
    for (int i = cnn__gpu_thread() * 4; i < n; i += CNN__FUSED_BLOCK * 4)
        *(float4 *)(p + i) = make_float4(0, 0, 0, 0);
}

/* The stages of one image. training: keeps what the backward pass reads. labels and tally may be NULL. */
static __global__ void __launch_bounds__(CNN__FUSED_BLOCK, 2)
    cnn__gpu_stages(cnn__fused f, cnn__resident data, const int *index, cnn__tally *tally, int *labels,
                    int training) {
    CNN__SHARED(float, base);
    float *const shared = cnn__gpu_keep(base);
    const int t = (int)threadIdx.x, image = (int)blockIdx.x;
    cnn__gpu_clear(shared, f.in_end);
    cnn__gpu_wait_for_last();
    const size_t row = (size_t)(tally ? tally->at : 0) + (size_t)image;
    cnn__gpu_copy4(f.packed, f.y_at - f.in_end, shared + f.in_end);
    const size_t from = index ? (size_t)index[row] : row; /* here, where `row` has arrived */
    __syncthreads();
    cnn__gpu_scatter(cnn__gpu_example_values(data, from), f.c * f.h * f.w, f.places + f.stage[0].pixels_from,
                     shared + f.stage[0].in_at);
    if (t == 0 && labels)
        labels[image] = data.labels[from];
    if (t == 0 && training)
        f.source[image] = (int)from;
    if (t == 0 && image == 0 && tally)
        tally->now = tally->step;
    __syncthreads();
    for (int k = 0; k < f.stages; k++) {
        const cnn__stage &s = f.stage[k];
        const int outputs = s.y.o * s.ph * s.pw * s.pool_h * s.pool_w, last = k == f.stages - 1;
        const float *w = shared + s.w_at, *bias = s.biases < 0 ? NULL : w + s.y.weights;
        cnn__stage_results to = {NULL, NULL, NULL, 0, 0};
        if (training)
            to.slopes = s.slopes + (size_t)image * (size_t)outputs;
        if (training || last)
            to.pooled = s.pooled + (size_t)image * (size_t)s.pooled_pitch;
        if (!last) {
            const cnn__stage &next = f.stage[k + 1];
            to.pitch = next.y.pitch;
            to.plane = next.y.plane;
            to.next = shared + next.in_at + next.pt * to.pitch + next.pl;
        }
        const cnn__put_stage put = {s.direct, s.pool_h > 1, s.max, s.activation,    s.y.oh, s.y.ow,
                                    s.ph,     s.pw,         bias,  shared + f.y_at, to};
        cnn__gpu_tiled_conv(s.y, shared + s.in_at, w, put);
        __syncthreads();
        if (!s.direct) {
            cnn__gpu_stage_pool(s, shared + f.y_at, bias, to);
            __syncthreads();
        }
    }
}

static __device__ __forceinline__ float4 cnn__gpu_fma4(float w, const float4 &x, float4 sum) {
    sum.x = fmaf(w, x.x, sum.x);
    sum.y = fmaf(w, x.y, sum.y);
    sum.z = fmaf(w, x.z, sum.z);
    sum.w = fmaf(w, x.w, sum.w);
    return sum;
}

/* The sum of the warp's values, in every lane. */
static __device__ __forceinline__ float cnn__gpu_warp_sum(float v) {
    CNN__GPU_UNROLL
    for (int lane = 16; lane; lane /= 2)
        v += __shfl_xor_sync(0xffffffffu, v, lane);
    return v;
}

static __device__ __forceinline__ float cnn__gpu_warp_max(float v) { /* NaN where any is */
    CNN__GPU_UNROLL
    for (int lane = 16; lane; lane /= 2) {
        const float other = __shfl_xor_sync(0xffffffffu, v, lane);
        v = other > v || other != other ? other : v;
    }
    return v;
}

/* Half of the lanes keep the first half of v's COUNT sums, the others the second, each adding what its
   partner has of them. */
template <int COUNT, int SIZE>
static __device__ __forceinline__ void cnn__gpu_halve(float (&v)[SIZE], int partner) {
    const int upper = (int)threadIdx.x & partner;
    CNN__GPU_UNROLL
    for (int i = 0; i < COUNT / 2; i++) {
        const float low = v[i], high = v[i + COUNT / 2];
        v[i] = (upper ? high : low) + __shfl_xor_sync(0xffffffffu, upper ? low : high, partner);
    }
}

/* Four of `left` weights, those beyond them 0. WIDE: there are four, aligned. */
template <int WIDE> static __device__ __forceinline__ float4 cnn__gpu_weights(const float *w, int left) {
    if (WIDE)
        return *(const float4 *)w;
    return make_float4(w[0], left > 1 ? w[1] : 0.0f, left > 2 ? w[2] : 0.0f, left > 3 ? w[3] : 0.0f);
}

/* The head's inputs lie as [i%4][i/4], so that lanes with four neighbouring inputs each meet different banks;
   up to a multiple of 4 there are zeros. */
static __device__ __forceinline__ int cnn__gpu_quarter(int width) {
    return (width + 3) / 4;
}

static __device__ __forceinline__ int cnn__gpu_place(int i, int width) {
    return i % 4 * cnn__gpu_quarter(width) + i / 4;
}

/* y = activation(w*x + bias) for four samples, x and y as cnn__gpu_place says: a warp takes eight outputs at
   a time, its lanes four inputs each. */
template <int WIDE>
static __device__ __forceinline__ void
cnn__gpu_head_forward(const cnn__head_layer &l, const float *parameters, const float4 *x, float4 *y) {
    const int warp = (int)threadIdx.x / 32, lane = (int)threadIdx.x % 32, quarter = cnn__gpu_quarter(l.in);
    for (int o = warp * 8; o < l.out; o += CNN__FUSED_BLOCK / 32 * 8) {
        const int own = o + lane / 4; /* the output whose sum this lane ends up with, of sample lane%4 */
        const float bias = l.biases < 0 || own >= l.out ? 0.0f : parameters[l.biases + own];
        float sum[32];
        CNN__GPU_UNROLL
        for (int j = 0; j < 32; j++)
            sum[j] = 0;
        for (int i = lane; i < quarter; i += 32) {
            float4 w[8];
            CNN__GPU_UNROLL
            for (int j = 0; j < 8; j++) {
                const int row = o + j < l.out ? o + j : l.out - 1;
                w[j] = cnn__gpu_weights<WIDE>(parameters + l.weights + row * l.in + 4 * i, l.in - 4 * i);
            }
            CNN__GPU_UNROLL
            for (int k = 0; k < 4; k++) {
                const float4 v = x[k * quarter + i];
                CNN__GPU_UNROLL
                for (int j = 0; j < 8; j++) {
                    const float value = cnn__gpu_part(w[j], k);
                    sum[j * 4 + 0] = fmaf(value, v.x, sum[j * 4 + 0]);
                    sum[j * 4 + 1] = fmaf(value, v.y, sum[j * 4 + 1]);
                    sum[j * 4 + 2] = fmaf(value, v.z, sum[j * 4 + 2]);
                    sum[j * 4 + 3] = fmaf(value, v.w, sum[j * 4 + 3]);
                }
            }
        }
        cnn__gpu_halve<32>(sum, 16);
        cnn__gpu_halve<16>(sum, 8);
        cnn__gpu_halve<8>(sum, 4);
        cnn__gpu_halve<4>(sum, 2);
        cnn__gpu_halve<2>(sum, 1);
        if (own < 4 * cnn__gpu_quarter(l.out))
            ((float *)(y + cnn__gpu_place(own, l.out)))[lane % 4] =
                own < l.out ? cnn__gpu_quick_activation(l.activation, sum[0] + bias) : 0.0f;
    }
}

/* Shares of dx = dy*w into sums, [group][i%4][i/4]: a thread has four inputs and a share of the outputs. */
template <int WIDE>
static __device__ __forceinline__ void cnn__gpu_head_shares(const cnn__head_layer &l, const float *parameters,
                                                            const float4 *dy, float4 *sums) {
    enum { AHEAD = 8 };
    const int lanes = cnn__gpu_quarter(l.in), group = l.groups > 1 ? (int)threadIdx.x / lanes : 0;
    const int first = l.out * group / l.groups, end = l.out * (group + 1) / l.groups;
    for (int i = (int)threadIdx.x - group * lanes; i < lanes && group < l.groups; i += CNN__FUSED_BLOCK) {
        float4 sum[4];
        CNN__GPU_UNROLL
        for (int k = 0; k < 4; k++)
            sum[k] = make_float4(0, 0, 0, 0);
        for (int o = first; o < end; o += AHEAD) {
            float4 w[AHEAD];
            CNN__GPU_UNROLL
            for (int j = 0; j < AHEAD; j++) {
                const int row = o + j < end ? o + j : end - 1;
                w[j] = cnn__gpu_weights<WIDE>(parameters + l.weights + row * l.in + 4 * i, l.in - 4 * i);
            }
            CNN__GPU_UNROLL
            for (int j = 0; j < AHEAD; j++) {
                if (o + j >= end)
                    continue;
                const float4 d = dy[o + j];
                CNN__GPU_UNROLL
                for (int k = 0; k < 4; k++)
                    sum[k] = cnn__gpu_fma4(cnn__gpu_part(w[j], k), d, sum[k]);
            }
        }
        CNN__GPU_UNROLL
        for (int k = 0; k < 4; k++)
            sums[(group * 4 + k) * lanes + i] = sum[k];
    }
}

/* d = dx * slope, from the shares of dx; x: what the slope of `activation` is taken at. */
static __device__ void cnn__gpu_head_fold(const cnn__head_layer &l, const float4 *sums, int activation,
                                          const float4 *x, float4 *d) {
    for (int i = (int)threadIdx.x; i < l.in; i += CNN__FUSED_BLOCK) {
        const int place = cnn__gpu_place(i, l.in);
        const float4 y = x[place];
        float4 g = sums[place];
        for (int k = 1; k < l.groups; k++)
            g = cnn__gpu_fma4(1.0f, sums[k * 4 * cnn__gpu_quarter(l.in) + place], g);
        d[i] = make_float4(g.x * cnn__gpu_slope(activation, y.x), g.y * cnn__gpu_slope(activation, y.y),
                           g.z * cnn__gpu_slope(activation, y.z), g.w * cnn__gpu_slope(activation, y.w));
    }
}

/* From and to rows of the batch, four samples at a time; those beyond n are 0. */
static __device__ void cnn__gpu_rows_in(const float *rows, int width, int pitch, int first, int n,
                                        float4 *to) {
    for (int i = (int)threadIdx.x; i < 4 * cnn__gpu_quarter(width); i += CNN__FUSED_BLOCK) {
        float v[4];
        CNN__GPU_UNROLL
        for (int r = 0; r < 4; r++)
            v[r] = first + r < n && i < width ? rows[(size_t)(first + r) * (size_t)pitch + (size_t)i] : 0.0f;
        to[cnn__gpu_place(i, width)] = make_float4(v[0], v[1], v[2], v[3]);
    }
}

static __device__ void cnn__gpu_rows_out(const float4 *from, int placed, int width, int pitch, int first,
                                         int n, float *rows) {
    for (int i = (int)threadIdx.x; i < width; i += CNN__FUSED_BLOCK) {
        const float4 v = from[placed ? cnn__gpu_place(i, width) : i];
        CNN__GPU_UNROLL
        for (int r = 0; r < 4; r++)
            if (first + r < n)
                rows[(size_t)(first + r) * (size_t)pitch + (size_t)i] = cnn__gpu_part(v, r);
    }
}

/* Loss, prediction and the logits' gradient of a sample, by a warp. The logits are placed, d is not. */
static __device__ void cnn__gpu_head_loss(const float4 *logits, int classes, int row, int label, float scale,
                                          float4 *d, double *loss, int *best) {
    const float *x = (const float *)logits + row;
    const int lane = (int)threadIdx.x % 32;
    float max = x[0], sum = 0;
    for (int k = lane; k < classes; k += 32)
        max = x[4 * cnn__gpu_place(k, classes)] > max ||
                      x[4 * cnn__gpu_place(k, classes)] != x[4 * cnn__gpu_place(k, classes)]
                  ? x[4 * cnn__gpu_place(k, classes)]
                  : max;
    max = cnn__gpu_warp_max(max);
    int first =
        classes; /* the first with the greatest value; as on the CPU, the first class where a NaN is */
    for (int k = lane; k < classes; k += 32) {
        sum += expf(x[4 * cnn__gpu_place(k, classes)] - max);
        first = x[4 * cnn__gpu_place(k, classes)] == max && k < first ? k : first;
    }
    sum = cnn__gpu_warp_sum(sum);
    CNN__GPU_UNROLL
    for (int other = 16; other; other /= 2) {
        const int theirs = __shfl_xor_sync(0xffffffffu, first, other);
        first = theirs < first ? theirs : first;
    }
    for (int k = lane; d && k < classes; k += 32)
        ((float *)d)[4 * k + row] =
            (expf(x[4 * cnn__gpu_place(k, classes)] - max) / sum - (k == label ? 1.0f : 0.0f)) * scale;
    *loss = log((double)sum) + ((double)max - (double)x[4 * cnn__gpu_place(label, classes)]);
    *best = first < classes ? first : 0;
}

/* The linear layers of four images. labels NULL: the outputs are all that is wanted; gradient 0: no backward
   pass. */
static __global__ void __launch_bounds__(CNN__FUSED_BLOCK)
    cnn__gpu_head(cnn__fused f, const float *parameters, int n, const int *labels, int gradient, double *loss,
                  int *right, int *confusion) {
    CNN__SHARED(float4, shared);
    const int first = (int)blockIdx.x * CNN__HEAD_ROWS, row = (int)threadIdx.x / 32, image = first + row;
    const int aligned = (size_t)parameters % sizeof(float4) == 0;
    cnn__gpu_wait_for_last();
    float4 *logits = shared + f.x_at[f.layers], *d = shared + f.d_at, *sums = shared + f.group_at;
    cnn__gpu_rows_in(f.layer[0].x, f.features, f.layer[0].in_pitch, first, n, shared + f.x_at[0]);
    __syncthreads();
    for (int l = 0; l < f.layers; l++) {
        const cnn__head_layer &layer = f.layer[l];
        float4 *y = shared + f.x_at[l + 1];
        if (layer.wide && aligned)
            cnn__gpu_head_forward<1>(layer, parameters, shared + f.x_at[l], y);
        else
            cnn__gpu_head_forward<0>(layer, parameters, shared + f.x_at[l], y);
        __syncthreads();
        if (gradient && l + 1 < f.layers)
            cnn__gpu_rows_out(y, 1, layer.out, f.layer[l + 1].in_pitch, first, n, f.layer[l + 1].x);
    }
    if (!labels) {
        cnn__gpu_rows_out(logits, 1, f.classes, f.classes, first, n, f.logits);
        return;
    }
    if (row < CNN__HEAD_ROWS && image < n) {
        int best = 0;
        double value = 0;
        cnn__gpu_head_loss(logits, f.classes, row, labels[image], 1.0f / (float)n, gradient ? d : NULL,
                           &value, &best);
        if (threadIdx.x % 32 == 0) {
            loss[image] = value;
            right[image] = best == labels[image];
            if (confusion)
                atomicAdd(&confusion[labels[image] * f.classes + best], 1);
        }
    } else if (row < CNN__HEAD_ROWS && gradient) {
        for (int k = (int)threadIdx.x % 32; k < f.classes; k += 32)
            ((float *)d)[4 * k + row] = 0;
    }
    __syncthreads();
    for (int l = f.layers - 1; gradient && l >= 0; l--) {
        const cnn__head_layer &layer = f.layer[l];
        cnn__gpu_rows_out(d, 0, layer.out, layer.out_pitch, first, n, layer.dy);
        if (layer.wide && aligned)
            cnn__gpu_head_shares<1>(layer, parameters, d, sums);
        else
            cnn__gpu_head_shares<0>(layer, parameters, d, sums);
        __syncthreads();
        cnn__gpu_head_fold(layer, sums, l ? f.layer[l - 1].activation : 0, shared + f.x_at[l], d);
        __syncthreads();
    }
    if (gradient)
        cnn__gpu_rows_out(d, 0, f.features, f.features, first, n, f.d_features);
}

/* A stage's start: the turned weights, unless it is the first; the input into its image; and the gradient of
   the convolution's result, before the activation, into the image of dy, from `up`, that of the pool's
   result. Their loads are under way while memory is cleared. */
template <int QUADS> /* pools of 2x2 */
static __device__ __forceinline__ void cnn__gpu_stage_begin(const cnn__fused &f, const cnn__stage &s,
                                                            const cnn__f_values &below, const float *slopes,
                                                            const float *up, float *shared) {
    enum { TURNS = 3 };
    const int t = cnn__gpu_thread(), pixels = s.y.c * s.h * s.w, windows = s.y.o * s.ph * s.pw;
    const int *pixel_places = f.places + s.pixels_from, *window_places = f.places + s.windows_from;
    float *dz = shared + f.dz_at, *in = shared + f.image_at;
    for (int first = t; first == t || first < pixels || first < windows; first += TURNS * CNN__FUSED_BLOCK) {
        float v[TURNS], g[TURNS];
        int pixel[TURNS], window[TURNS];
        float4 y[TURNS];
        CNN__GPU_UNROLL
        for (int k = 0; k < TURNS; k++) {
            const int i = first + k * CNN__FUSED_BLOCK;
            v[k] = i < pixels ? below(i) : 0.0f;
            pixel[k] = i < pixels ? pixel_places[i] : 0;
            g[k] = i < windows ? up[i] : 0.0f;
            window[k] = i < windows ? window_places[i] : 0;
            y[k] = QUADS && i < windows ? ((const float4 *)slopes)[i] : make_float4(0, 0, 0, 0);
        }
        if (first == t) {
            if (s.turned_from)
                cnn__gpu_copy4(f.packed + s.turned_from, s.dx.weights, shared + f.turned_at);
            cnn__gpu_clear(dz, f.ones_at - f.dz_at);
            __syncthreads();
        }
        CNN__GPU_UNROLL
        for (int k = 0; k < TURNS; k++) {
            const int i = first + k * CNN__FUSED_BLOCK;
            float *to = dz + window[k];
            if (i < pixels)
                in[pixel[k]] = v[k];
            if (QUADS && i < windows) {
                *(float2 *)to = make_float2(g[k] * y[k].x, g[k] * y[k].y);
                *(float2 *)(to + s.dx.pitch) = make_float2(g[k] * y[k].z, g[k] * y[k].w);
            }
            for (int a = 0, e = 0; !QUADS && i < windows && a < s.pool_h; a++)
                for (int b = 0; b < s.pool_w; b++, e++)
                    to[a * s.dx.pitch + b] = g[k] * slopes[i * s.pool_h * s.pool_w + e];
        }
    }
}

/* Sums of TO channels and KW kernel elements over a row of dz, g, and of the image, x. */
template <int TO, int KW>
static __device__ __forceinline__ void cnn__gpu_dw_row(const float *x, const float *g, int plane, int width,
                                                       float (&sum)[(TO * KW + 3) / 4 * 4]) {
    float v[KW + 1];
    CNN__GPU_UNROLL
    for (int j = 0; j < KW - 1; j += 2) {
        const float2 pair = *(const float2 *)(x + j);
        v[j] = pair.x;
        v[j + 1] = pair.y;
    }
    for (int p = 0; p < width; p += 2) {
        if (KW == 1) {
            v[0] = x[p];
            v[1] = x[p + 1];
        } else {
            const float2 pair = *(const float2 *)(x + p + KW - 1);
            v[KW - 1] = pair.x;
            v[KW] = pair.y;
        }
        CNN__GPU_UNROLL
        for (int i = 0; i < TO; i++) {
            const float2 d = *(const float2 *)(g + i * plane + p);
            CNN__GPU_UNROLL
            for (int k = 0; k < KW; k++) {
                sum[i * KW + k] = fmaf(d.x, v[k], sum[i * KW + k]);
                sum[i * KW + k] = fmaf(d.y, v[k + 1], sum[i * KW + k]);
            }
        }
        CNN__GPU_UNROLL
        for (int j = 0; j < KW - 1; j++)
            v[j] = v[j + 2];
    }
}

/* Gradient q of a thread's sums into the parameters' place. */
template <int TO, int KW>
static __device__ __forceinline__ void cnn__gpu_dw_put(const cnn__stage &s, int tile, int element, int q,
                                                       float value, float *to) {
    const int o = tile * TO + q / KW, k = q % KW;
    if (q >= TO * KW || o >= s.y.o)
        return;
    if (element < s.elements - 1)
        to[s.weights + o * (int)s.by_steps.d + element * KW + k] = value;
    else if (k == 0 && s.biases >= 0)
        to[s.biases + o] = value;
}

/* dw and db of one image into `to`: a thread takes TO output channels, the KW kernel elements of a kernel's
   row, and with its three neighbours the rows of a slice. A bias is the weight of an image of ones. */
template <int TO, int KW>
static __device__ __forceinline__ void cnn__gpu_stage_dw(const cnn__stage &s, const float *in,
                                                         const float *dz, const float *ones, float *scratch,
                                                         float *to) {
    enum { KEPT = (TO * KW + 3) / 4 };
    const int t = cnn__gpu_thread(), lane = t % 4, sums = s.elements * s.y.tiles * 4;
    const int items = sums * s.slices;
    for (int item = t; item - t % 32 < items; item += CNN__FUSED_BLOCK) {
        const cnn__element e =
            cnn__gpu_element((item < items ? item : items - 1) / 4, s.by_slice, s.by_elements);
        const cnn__element tap = cnn__gpu_element(e.j, s.by_taps, s.by_columns);
        const int bias = e.j == s.elements - 1, x_pitch = bias ? 0 : s.y.pitch;
        const float *x = bias ? ones : in + tap.c * s.y.plane + tap.i * s.y.pitch + tap.j;
        const float *g = dz + e.i * TO * s.dx.plane + s.top * s.dx.pitch + s.left;
        float sum[KEPT * 4];
        CNN__GPU_UNROLL
        for (int q = 0; q < KEPT * 4; q++)
            sum[q] = 0;
        for (int row = e.c * 4 + lane; row < s.y.oh; row += 4 * s.slices)
            cnn__gpu_dw_row<TO, KW>(x + row * x_pitch, g + row * s.dx.pitch, s.dx.plane, s.y.ow, sum);
        cnn__gpu_halve<KEPT * 4>(sum, 2);
        cnn__gpu_halve<KEPT * 2>(sum, 1);
        CNN__GPU_UNROLL
        for (int q = 0; q < KEPT; q++) {
            if (item >= items)
                continue;
            if (s.slices > 1)
                scratch[item * KEPT + q] = sum[q];
            else
                cnn__gpu_dw_put<TO, KW>(s, e.i, e.j, lane * KEPT + q, sum[q], to);
        }
    }
    if (s.slices == 1)
        return;
    __syncthreads();
    for (int i = t; i < sums * KEPT; i += CNN__FUSED_BLOCK) {
        const cnn__element e = cnn__gpu_element(i / (KEPT * 4), s.by_slice, s.by_elements);
        float sum = 0;
        for (int k = 0; k < s.slices; k++)
            sum += scratch[k * sums * KEPT + i];
        cnn__gpu_dw_put<TO, KW>(s, e.i, e.j, i % (KEPT * 4), sum, to);
    }
}

template <int TO>
static __device__ __forceinline__ void cnn__gpu_stage_dw_columns(const cnn__stage &s, const float *in,
                                                                 const float *dz, const float *ones,
                                                                 float *scratch, float *to) {
    if (s.taps == 5)
        cnn__gpu_stage_dw<TO, 5>(s, in, dz, ones, scratch, to);
    else if (s.taps == 3)
        cnn__gpu_stage_dw<TO, 3>(s, in, dz, ones, scratch, to);
    else
        cnn__gpu_stage_dw<TO, 1>(s, in, dz, ones, scratch, to);
}

/* The stages of an image backward, a block each: its parameter gradients into f.part. */
static __global__ void __launch_bounds__(CNN__FUSED_BLOCK, 2)
    cnn__gpu_stages_backward(cnn__fused f, cnn__resident data) {
    CNN__SHARED(float, base);
    float *const shared = cnn__gpu_keep(base);
    const int image = (int)blockIdx.x, from = f.source[image];
    float *dz = shared + f.dz_at, *in = shared + f.image_at, *ones = shared + f.ones_at,
          *to = f.part + (size_t)image * (size_t)f.conv_parameters;
    for (int i = cnn__gpu_thread(); i < f.ones; i += CNN__FUSED_BLOCK)
        ones[i] = 1;
    for (int k = f.stages - 1; k >= 0; k--) {
        const cnn__stage &s = f.stage[k], &next = f.stage[k ? k - 1 : 0];
        const int outputs = s.y.o * s.ph * s.pw * s.pool_h * s.pool_w;
        const float *slopes = s.slopes + (size_t)image * (size_t)outputs;
        const float *up =
            k == f.stages - 1 ? f.d_features + (size_t)image * (size_t)f.features : (const float *)shared;
        cnn__f_values below = {NULL, NULL};
        if (k)
            below.floats = next.pooled + (size_t)image * (size_t)next.pooled_pitch;
        else
            below = cnn__gpu_example_values(data, (size_t)from);
        if (s.pool_h == 2 && s.pool_w == 2)
            cnn__gpu_stage_begin<1>(f, s, below, slopes, up, shared);
        else
            cnn__gpu_stage_begin<0>(f, s, below, slopes, up, shared);
        __syncthreads();
        if (s.y.rows == 4)
            cnn__gpu_stage_dw_columns<4>(s, in, dz, ones, shared + s.scratch_at, to);
        else
            cnn__gpu_stage_dw_columns<3>(s, in, dz, ones, shared + s.scratch_at, to);
        if (!k)
            return;
        const cnn__put_plane put = {s.h, s.w, s.dx.shift, shared};
        cnn__gpu_tiled_conv(s.dx, dz, shared + f.turned_at, put);
        __syncthreads();
    }
}

/* A tile of a linear layer's weight gradient, the product over the batch, and the biases' in the first tile
   of a row of tiles; with its step. A warp has every 16th sample, a thread 4 x 4 sums. */
static __device__ void cnn__gpu_linear_tile(const cnn__head_layer &l, int tile, int n, const cnn__update &u,
                                            float *shared) {
    enum { WARPS = CNN__FUSED_BLOCK / 32, AHEAD = 4 };
    const int t = (int)threadIdx.x, warp = t / 32, ty = t % 32 / 8 * 4, tx = t % 8 * 4;
    const int o0 = tile / l.tiles_in * CNN__TILE_ROWS, i0 = tile % l.tiles_in * CNN__TILE_COLUMNS;
    const float *dy = l.dy + (o0 + ty < l.out_pitch ? o0 + ty : 0) + (size_t)warp * (size_t)l.out_pitch;
    const float *x = l.x + (i0 + tx < l.in_pitch ? i0 + tx : 0) + (size_t)warp * (size_t)l.in_pitch;
    float sum[4][4], bias[4] = {0, 0, 0, 0};
    CNN__GPU_UNROLL
    for (int i = 0; i < 4; i++)
        sum[i][0] = sum[i][1] = sum[i][2] = sum[i][3] = 0;
    for (int first = warp; first < n; first += WARPS * AHEAD) {
        float4 a[AHEAD], b[AHEAD];
        CNN__GPU_UNROLL
        for (int k = 0; k < AHEAD; k++) {
            a[k] = b[k] = make_float4(0, 0, 0, 0);
            if (first + k * WARPS < n) {
                a[k] = *(const float4 *)(dy + k * WARPS * l.out_pitch);
                b[k] = *(const float4 *)(x + k * WARPS * l.in_pitch);
            }
        }
        dy += (size_t)(WARPS * AHEAD) * (size_t)l.out_pitch;
        x += (size_t)(WARPS * AHEAD) * (size_t)l.in_pitch;
        CNN__GPU_UNROLL
        for (int k = 0; k < AHEAD; k++) {
            CNN__GPU_UNROLL
            for (int i = 0; i < 4; i++) {
                const float d = cnn__gpu_part(a[k], i);
                sum[i][0] = fmaf(d, b[k].x, sum[i][0]);
                sum[i][1] = fmaf(d, b[k].y, sum[i][1]);
                sum[i][2] = fmaf(d, b[k].z, sum[i][2]);
                sum[i][3] = fmaf(d, b[k].w, sum[i][3]);
                bias[i] += d;
            }
        }
    }
    float *sums = shared + warp * CNN__TILE_SUMS;
    CNN__GPU_UNROLL
    for (int i = 0; i < 4; i++) {
        *(float4 *)(sums + (ty + i) * CNN__TILE_COLUMNS + tx) =
            make_float4(sum[i][0], sum[i][1], sum[i][2], sum[i][3]);
        if (tx == 0)
            sums[CNN__TILE_ROWS * CNN__TILE_COLUMNS + ty + i] = bias[i];
    }
    __syncthreads();
    for (int e = t; e < CNN__TILE_SUMS; e += CNN__FUSED_BLOCK) {
        const int biases = e >= CNN__TILE_ROWS * CNN__TILE_COLUMNS;
        const int o = o0 + (biases ? e % CNN__TILE_ROWS : e / CNN__TILE_COLUMNS),
                  i = i0 + e % CNN__TILE_COLUMNS;
        float g = 0;
        CNN__GPU_UNROLL
        for (int k = 0; k < WARPS; k++)
            g += shared[k * CNN__TILE_SUMS + e];
        if (o >= l.out || (biases ? i0 > 0 || l.biases < 0 : i >= l.in))
            continue;
        cnn__gpu_apply(u, biases ? l.biases + o : l.weights + o * l.in + i, g);
    }
}

/* The sum of the images' gradients of 32 parameters of the convolutions, each warp's of every 16th image. */
static __device__ void cnn__gpu_fold_columns(const cnn__fused &f, int column, int n, const cnn__update &u,
                                             float *shared) {
    enum { WARPS = CNN__FUSED_BLOCK / 32, AHEAD = 8 };
    const int t = (int)threadIdx.x, i = column + t % 32;
    const float *part = f.part + (i < f.conv_parameters ? i : 0);
    float sum = 0;
    for (int first = t / 32; first < n; first += WARPS * AHEAD) {
        float v[AHEAD];
        CNN__GPU_UNROLL
        for (int k = 0; k < AHEAD; k++) {
            const int image = first + k * WARPS;
            v[k] = image < n ? part[(size_t)image * (size_t)f.conv_parameters] : 0.0f;
        }
        CNN__GPU_UNROLL
        for (int k = 0; k < AHEAD; k++)
            sum += v[k];
    }
    shared[t] = sum;
    __syncthreads();
    if (t >= 32 || i >= f.conv_parameters)
        return;
    for (int k = 1; k < WARPS; k++)
        sum += shared[k * 32 + t];
    const float value = cnn__gpu_apply(u, i, sum);
    if (u.step)
        cnn__gpu_pack(f, i, value);
}

/* Ends a step: the first block adds the batch to the tally, then come the linear layers' tiles, then the sums
   of the convolutions' gradients. */
static __global__ void __launch_bounds__(CNN__FUSED_BLOCK, 2)
    cnn__gpu_stages_fold(cnn__fused f, int n, const double *loss, const int *right, cnn__tally *tally,
                         cnn__update u) {
    CNN__SHARED(double, shared);
    const int tile = (int)blockIdx.x - 1;
    if (tile < 0) {
        cnn__gpu_add_batch(loss, right, n, tally, shared);
        return;
    }
    if (tile >= f.tiles) {
        cnn__gpu_fold_columns(f, (tile - f.tiles) * 32, n, u, (float *)shared);
        return;
    }
    int l = f.layers - 1;
    while (tile < f.layer[l].first_tile)
        l--;
    cnn__gpu_linear_tile(f.layer[l], tile - f.layer[l].first_tile, n, u, (float *)shared);
}

/* How often lanes of a half warp meet in a bank when they load a pair of floats each: of the first tiles. */
static int cnn__tiled_conflicts(const cnn__tiled *v) {
    int total = 0;
    for (int first = 0; first < v->items && first < 16 * 16; first += 16) {
        int used[16] = {0}, most = 0;
        for (int k = first; k < first + 16; k++) {
            const int tile = k >> v->log, row = tile / (int)v->by_row.d, column = tile % (int)v->by_row.d;
            const int bank = (k % v->split * v->plane / 2 + row * v->pitch + column) % 16;
            used[bank]++;
            most = used[bank] > most ? used[bank] : most;
        }
        total += most;
    }
    return total;
}

/* The pitch and the plane of an image of so many rows and columns. Half a pitch is odd, so that rows, which
   dw's lanes differ by, begin in different banks; planes, which lanes that share a tile differ by, are 16 or
   8 banks apart. */
static void cnn__tiled_place(cnn__tiled *v, int rows, int columns) {
    const int apart = v->split == 4 ? 8 : 16;
    cnn__tiled best = *v;
    int fewest = INT_MAX;
    for (int pitch = columns; pitch < columns + 32; pitch++) {
        if (pitch % 4 != 2)
            continue;
        v->pitch = pitch;
        v->plane = rows * pitch + (apart + 64 - rows * pitch % 32) % 32;
        const int conflicts = cnn__tiled_conflicts(v);
        if (conflicts < fewest)
            best = *v;
        fewest = conflicts < fewest ? conflicts : fewest;
    }
    *v = best;
}

/* From c to o channels of oh x ow; tiles_y rows of tiles_x tiles. */
static void cnn__tiled_set(cnn__tiled *v, int c, int o, int oh, int ow, const cnn__conv *kernel, int tiles_y,
                           int tiles_x) {
    v->c = c;
    v->o = o;
    v->oh = oh;
    v->ow = ow;
    v->kh = kernel->kh;
    v->kw = kernel->kw;
    v->rows = (o + 2) / 3 * 3 < (o + 3) / 4 * 4 ? 3 : 4;
    v->tiles = (o + v->rows - 1) / v->rows;
    v->weights = (int)fmin((double)c * v->tiles * v->kh * v->kw * 4, CNN__FUSED_BYTES);
    v->by_map = cnn__div_by((unsigned)(tiles_y * tiles_x));
    v->by_row = cnn__div_by((unsigned)tiles_x);
    v->items = v->tiles * tiles_y * tiles_x;
    v->split = 1;
    v->log = 0;
    while (v->split < 4 && c % (2 * v->split) == 0 && 2 * v->items <= CNN__FUSED_BLOCK) {
        v->split *= 2;
        v->items *= 2;
        v->log++;
    }
}

static int cnn__round4(int n) {
    return (n + 3) / 4 * 4;
}

/* How dw is shared out. */
static void cnn__fuse_dw(cnn__stage *s) {
    const cnn__tiled *v = &s->y;
    s->taps = v->kw == 5 || v->kw == 3 ? v->kw : 1;
    s->elements = v->c * v->kh * (v->kw / s->taps) + 1;
    const int items = s->elements * v->tiles * 4;
    s->slices = cnn__min((v->oh + 3) / 4, items < CNN__FUSED_BLOCK ? CNN__FUSED_BLOCK / items : 1);
    s->by_slice = cnn__div_by((unsigned)(s->elements * v->tiles));
    s->by_elements = cnn__div_by((unsigned)s->elements);
    s->by_taps = cnn__div_by((unsigned)(v->kh * (v->kw / s->taps)));
    s->by_columns = cnn__div_by((unsigned)(v->kw / s->taps));
}

/* Both convolutions' images. The one of dy holds dy from an even column on, so that pairs of it are aligned.
   */
static void cnn__fuse_images(cnn__stage *s, const cnn__conv *v, int below) {
    const int tiles_y = s->pool_h == 2 && s->direct ? s->ph : (v->oh + 1) / 2;
    const int tiles_x = s->pool_w == 2 && s->direct ? s->pw : (v->ow + 1) / 2;
    cnn__tiled_set(&s->y, v->c, v->o, v->oh, v->ow, v, tiles_y, tiles_x);
    s->y.begin = v->pt;
    s->y.end = v->pt + v->h;
    cnn__tiled_place(&s->y, (v->oh + 1) / 2 * 2 + v->kh - 1, (v->ow + 1) / 2 * 2 + v->kw - 1);
    s->top = below ? v->kh - 1 - v->pt : 0;
    s->left = below ? v->kw - 1 - v->pl : 0;
    const int shift = s->left % 2, rows = (v->h + 1) / 2, columns = (v->w + shift + 1) / 2;
    s->left += shift;
    cnn__tiled_set(&s->dx, v->o, v->c, v->h, v->w, v, rows, columns);
    s->dx.begin = s->top;
    s->dx.end = s->top + v->oh;
    s->dx.shift = shift;
    const int own = s->left + (v->ow + 1) / 2 * 2, wanted = 2 * columns + v->kw - 1;
    cnn__tiled_place(&s->dx, below ? 2 * rows + v->kh - 1 : v->oh, below && wanted > own ? wanted : own);
}

/* A convolution, its activation and its pool from layer *at on, if they make a stage. */
static int cnn__fuse_stage(const cnn__gpu_net *g, int *at, cnn__stage *s) {
    const cnn_net *net = g->net;
    const cnn__conv *v = &g->layer[*at].conv;
    const int below = *at > 0;
    int i = *at + 1;
    const int padded = v->hp != v->h || v->wp != v->w;
    if (v->groups != 1 || v->sh != 1 || v->sw != 1 || v->dh != 1 || v->dw != 1 ||
        (padded && v->mode != CNN_PAD_ZEROS) || v->pt >= v->kh || v->pl >= v->kw ||
        v->hp - v->h - v->pt >= v->kh || v->wp - v->w - v->pl >= v->kw || (double)v->hp * v->wp > 8192 ||
        v->c > 512 || v->o > 512)
        return 0;
    memset(s, 0, sizeof *s);
    s->h = v->h;
    s->w = v->w;
    s->pt = v->pt;
    s->pl = v->pl;
    s->weights = (int)net->offset[*at];
    s->biases = net->info[*at].biases ? s->weights + (int)net->info[*at].weights : -1;
    if (i < net->count && cnn__is_activation(net->layers[i].kind))
        s->activation = (int)net->layers[i++].kind;
    s->pool_h = s->pool_w = 1;
    s->ph = v->oh;
    s->pw = v->ow;
    if (i < net->count && (net->layers[i].kind == CNN_MAXPOOL2D || net->layers[i].kind == CNN_AVGPOOL2D ||
                           net->layers[i].kind == CNN_GLOBALAVGPOOL2D)) {
        const cnn__pool *p = &g->layer[i].pool;
        if (!p->tiled)
            return 0;
        s->max = p->max;
        s->pool_h = p->kh;
        s->pool_w = p->kw;
        s->ph = p->oh;
        s->pw = p->ow;
        i++;
    }
    s->direct = s->pool_h == s->pool_w && s->pool_h <= 2;
    cnn__fuse_images(s, v, below);
    cnn__fuse_dw(s);
    s->by_steps = cnn__div_by((unsigned)(v->c * v->kh * v->kw));
    s->by_kernel = cnn__div_by((unsigned)(v->kh * v->kw));
    s->by_pooled = cnn__div_by((unsigned)(s->ph * s->pw));
    s->by_pw = cnn__div_by((unsigned)s->pw);
    s->by_input = cnn__div_by((unsigned)(v->h * v->w));
    s->by_w = cnn__div_by((unsigned)v->w);
    s->pooled_pitch = cnn__round4(v->o * s->ph * s->pw);
    *at = i;
    return 1;
}

/* Shared memory of the stages, in floats; 0 where it is too much. */
static int cnn__fuse_plan(cnn__fused *f) {
    double at = 0, y = 0, up = f->features, dz = 0, image = 0, rest = 0;
    for (int k = 0; k < f->stages; k++) {
        cnn__stage *s = &f->stage[k];
        const double turned = k ? s->dx.weights : 0;
        const double sums =
            (double)s->slices * s->elements * s->y.tiles * ((s->y.rows * s->taps + 3) / 4 * 4);
        s->in_at = (int)at;
        at += cnn__round4(s->y.c * s->y.plane);
        y = fmax(y, s->direct ? 0 : (double)s->y.o * s->y.oh * s->y.ow);
        up = fmax(up, k ? (double)s->y.c * s->h * s->w : 0);
        dz = fmax(dz, (double)s->y.tiles * s->y.rows * s->dx.plane);
        image = fmax(image, (double)s->y.c * s->y.plane);
        s->scratch_at = (int)fmin(turned, CNN__FUSED_BYTES);
        rest = fmax(rest, turned + (s->slices > 1 ? sums : 0));
        f->ones = s->y.ow + s->taps + 1 > f->ones ? s->y.ow + s->taps + 1 : f->ones;
        if (at > CNN__FUSED_BYTES || up + dz + image + rest > CNN__FUSED_BYTES)
            return 0;
    }
    f->in_end = (int)at;
    for (int k = 0; k < f->stages; k++) {
        const cnn__stage *s = &f->stage[k];
        f->stage[k].w_at = (int)at;
        at += s->y.weights + cnn__round4(s->y.o);
        if (at > CNN__FUSED_BYTES)
            return 0;
    }
    f->y_at = (int)at;
    f->dz_at = cnn__round4((int)up);
    f->image_at = f->dz_at + cnn__round4((int)dz);
    f->ones_at = f->image_at + cnn__round4((int)image);
    f->turned_at = f->ones_at + cnn__round4(f->ones);
    for (int k = 0; k < f->stages; k++)
        f->stage[k].scratch_at += f->turned_at;
    f->forward_bytes = (int)(at + y) * 4;
    f->backward_bytes = (f->turned_at + (int)rest) * 4;
    f->packed_count = f->y_at - f->in_end;
    f->places_count = 0;
    for (int k = 0; k < f->stages; k++) {
        cnn__stage *s = &f->stage[k];
        s->turned_from = k ? f->packed_count : 0;
        f->packed_count += k ? s->dx.weights : 0;
        s->pixels_from = f->places_count;
        s->windows_from = s->pixels_from + s->y.c * s->h * s->w;
        f->places_count = s->windows_from + s->y.o * s->ph * s->pw;
    }
    return f->forward_bytes <= CNN__FUSED_BYTES && f->backward_bytes <= CNN__FUSED_BYTES;
}

/* The linear layers' shared memory, and the tiles of their gradients. */
static int cnn__fuse_head(cnn__fused *f) {
    const int most = CNN__FUSED_BYTES / 16;
    double at = 0, widest = 0;
    int sums = 0;
    for (int l = 0; l <= f->layers; l++) {
        const int width = l < f->layers ? f->layer[l].in : f->classes;
        f->x_at[l] = (int)fmin(at, most);
        at += cnn__round4(width);
        widest = fmax(widest, cnn__round4(width));
    }
    if (at + 2 * widest + 4 > most)
        return 0;
    f->d_at = (int)at;
    f->group_at = (int)(at + widest);
    f->tiles = 0;
    for (int l = 0; l < f->layers; l++) {
        cnn__head_layer *h = &f->layer[l];
        const int lanes = (h->in + 3) / 4;
        h->in_pitch = cnn__round4(h->in);
        h->out_pitch = cnn__round4(h->out);
        h->wide = h->in % 4 == 0 && h->weights % 4 == 0;
        h->groups = cnn__min(cnn__min(h->out, (most - f->group_at) / (4 * lanes)),
                             lanes < CNN__FUSED_BLOCK ? CNN__FUSED_BLOCK / lanes : 1);
        sums = h->groups * 4 * lanes > sums ? h->groups * 4 * lanes : sums;
        h->tiles_in = (h->in + CNN__TILE_COLUMNS - 1) / CNN__TILE_COLUMNS;
        h->first_tile = f->tiles;
        f->tiles += h->tiles_in * ((h->out + CNN__TILE_ROWS - 1) / CNN__TILE_ROWS);
    }
    f->head_bytes = (f->group_at + sums) * 16;
    return 1;
}

/* Whether the network is one of these; its shapes alone decide. */
static int cnn__fuse(const cnn__gpu_net *g, cnn__fused *f) {
    const cnn_net *net = g->net;
    int i = 0;
    memset(f, 0, sizeof *f);
    f->c = net->c;
    f->h = net->h;
    f->w = net->w;
    while (i < net->count && net->layers[i].kind == CNN_CONV2D)
        if (f->stages == CNN__MOST_STAGES || !cnn__fuse_stage(g, &i, &f->stage[f->stages++]))
            return 0;
    if (!f->stages || i == net->count)
        return 0;
    f->features = (int)g->layer[i - 1].out;
    f->conv_parameters = (int)(net->offset[i - 1] + net->info[i - 1].weights + net->info[i - 1].biases);
    while (i < net->count && net->layers[i].kind == CNN_FLATTEN)
        i++;
    while (i < net->count) {
        if (net->layers[i].kind != CNN_LINEAR || f->layers == CNN__MOST_LINEAR)
            return 0;
        cnn__head_layer *h = &f->layer[f->layers++];
        h->in = (int)g->layer[i].in;
        h->out = (int)g->layer[i].out;
        h->weights = (int)net->offset[i];
        h->biases = net->info[i].biases ? h->weights + (int)net->info[i].weights : -1;
        f->classes = h->out;
        i++;
        if (i < net->count && cnn__is_activation(net->layers[i].kind))
            h->activation = (int)net->layers[i++].kind;
    }
    return f->layers && !f->layer[f->layers - 1].activation && cnn__fuse_plan(f) && cnn__fuse_head(f);
}

static void cnn__fused_carve(cnn__fused *f, int batch, int training, cnn__arena *arena) {
    const size_t n = (size_t)batch;
    for (int k = 0; k < f->stages; k++) {
        cnn__stage *s = &f->stage[k];
        if (training)
            s->slopes = cnn__take_floats(arena, n * (size_t)(s->y.o * s->ph * s->pw * s->pool_h * s->pool_w));
        if (training || k == f->stages - 1)
            s->pooled = cnn__take_floats(arena, n * (size_t)s->pooled_pitch);
    }
    for (int l = 0; l < f->layers; l++) {
        cnn__head_layer *h = &f->layer[l];
        h->x = l == 0     ? f->stage[f->stages - 1].pooled
               : training ? cnn__take_floats(arena, n * (size_t)h->in_pitch)
                          : NULL;
        h->dy = training ? cnn__take_floats(arena, n * (size_t)h->out_pitch) : NULL;
    }
    f->logits = cnn__take_floats(arena, n * (size_t)f->classes);
    f->packed = cnn__take_floats(arena, (size_t)f->packed_count);
    f->places = (int *)cnn__take(arena, (size_t)f->places_count, sizeof(int));
    if (training) {
        f->source = (int *)cnn__take(arena, n, sizeof(int));
        f->d_features = cnn__take_floats(arena, n * (size_t)f->features);
        f->part = cnn__take_floats(arena, n * (size_t)f->conv_parameters);
    }
}

static cnn_status cnn__fused_allow(const char *where, const cnn__fused *f) {
    if (f->forward_bytes > 48 * 1024)
        CNN__CUDA(where, cudaFuncSetAttribute((const void *)cnn__gpu_stages,
                                              cudaFuncAttributeMaxDynamicSharedMemorySize, CNN__FUSED_BYTES));
    if (f->head_bytes > 48 * 1024)
        CNN__CUDA(where, cudaFuncSetAttribute((const void *)cnn__gpu_head,
                                              cudaFuncAttributeMaxDynamicSharedMemorySize, CNN__FUSED_BYTES));
    if (f->backward_bytes > 48 * 1024)
        CNN__CUDA(where, cudaFuncSetAttribute((const void *)cnn__gpu_stages_backward,
                                              cudaFuncAttributeMaxDynamicSharedMemorySize, CNN__FUSED_BYTES));
    return CNN_OK;
}

/* What the others read of the parameters, where they are not the last step's. */
static cnn_status cnn__launch_pack(const char *where, cudaStream_t stream, const cnn__fused *f,
                                   const float *parameters) {
    const cnn__f_pack pack = {*f, parameters};
    return cnn__launch_map(where, stream, pack, (size_t)f->conv_parameters + (size_t)f->places_count);
}

/* Examples as far as the logits, and, with labels, the loss; the tally says where they begin, NULL: at 0. */
static cnn_status cnn__launch_fused(const char *where, cudaStream_t stream, const cnn__fused *f, int n,
                                    const float *parameters, const cnn__resident *data, const int *index,
                                    cnn__tally *tally, int *labels, int training, double *loss, int *right,
                                    int *confusion) {
    const int early = !training && cnn__gpu.architecture >= 900; /* in a graph it takes longer */
    CNN__RUN_EARLY(early, where, cnn__gpu_stages, (unsigned)n, CNN__FUSED_BLOCK, (size_t)f->forward_bytes,
                   stream, *f, *data, index, tally, labels, training);
    CNN__RUN_EARLY(early, where, cnn__gpu_head, (unsigned)cnn__pieces((size_t)n, CNN__HEAD_ROWS),
                   CNN__FUSED_BLOCK, (size_t)f->head_bytes, stream, *f, parameters, n, (const int *)labels,
                   training, loss, right, confusion);
    return CNN_OK;
}

/* What follows it in a training step. */
static cnn_status cnn__launch_fused_backward(const char *where, cudaStream_t stream, const cnn__fused *f,
                                             int n, const cnn__resident *data, cnn__tally *tally,
                                             const double *loss, const int *right, const cnn__update *u) {
    const size_t folds = cnn__pieces((size_t)f->conv_parameters, 32);
    const size_t sums = CNN__FUSED_BLOCK / 32 * CNN__TILE_SUMS * sizeof(float);
    const size_t losses = 2 * CNN__FUSED_BLOCK * sizeof(double);
    CNN__RUN(where, cnn__gpu_stages_backward, (unsigned)n, CNN__FUSED_BLOCK, (size_t)f->backward_bytes,
             stream, *f, *data);
    CNN__RUN(where, cnn__gpu_stages_fold, (unsigned)(1 + (size_t)f->tiles + folds), CNN__FUSED_BLOCK,
             sums > losses ? sums : losses, stream, *f, n, loss, right, tally, *u);
    return CNN_OK;
}

/* ---- a network on the device ---- */

/* Places the layers' outputs. An element-wise layer works in place unless the backward pass still reads what
   it would overwrite. Without a backward pass two places in turn do. */
static void cnn__gpu_net_carve(cnn__gpu_net *g, cnn__arena *arena) {
    const cnn_net *net = g->net;
    const size_t batch = (size_t)g->batch, input = cnn__elements(1, net->c, net->h, net->w);
    size_t largest = input, pad = 1, part = 1;
    g->labels = (int *)cnn__take(arena, batch, sizeof(int));
    g->right = (int *)cnn__take(arena, batch, sizeof(int));
    g->losses = (double *)cnn__take(arena, batch, sizeof(double));
    g->tally = (cnn__tally *)cnn__take(arena, 1, sizeof(cnn__tally));
    g->staged_on =
        g->training ? (unsigned char *)cnn__take(arena, cnn__mul(batch, input * sizeof(float) + 1), 1) : NULL;
    if (g->fused) {
        g->input = g->training ? NULL : cnn__take_floats(arena, cnn__mul(batch, input));
        cnn__fused_carve(g->fused, g->batch, g->training, arena);
        return;
    }
    for (int i = 0; i < net->count; i++) {
        const size_t out = cnn__elements(1, net->info[i].c, net->info[i].h, net->info[i].w);
        largest = out > largest ? out : largest;
    }
    float *sides[2] = {NULL, NULL};
    for (int i = 0; i < 2 && !g->training; i++)
        sides[i] = cnn__take_floats(arena, cnn__mul(batch, largest));
    g->input = g->training ? cnn__take_floats(arena, cnn__mul(batch, input)) : sides[0];
    float *x = g->input;
    int locked = 0, side = 0;
    for (int i = 0; i < net->count; i++) {
        const cnn__kind *kind = &cnn__kinds[net->layers[i].kind];
        cnn__gpu_layer *l = &g->layer[i];
        const int flatten = net->layers[i].kind == CNN_FLATTEN;
        l->alias = kind->in_place && (flatten || !locked || !g->training);
        locked = kind->reads_y || (l->alias && locked);
        l->x = x;
        if (!l->alias) {
            side = !side;
            x = g->training ? cnn__take_floats(arena, cnn__mul(batch, l->out)) : sides[side];
        }
        l->y = x;
        if (net->layers[i].kind == CNN_MAXPOOL2D && g->training)
            l->indices = (int *)cnn__take(arena, cnn__mul(batch, l->out), sizeof(int));
        if (net->layers[i].kind == CNN_CONV2D) {
            cnn__conv_plan plan;
            if (cnn__conv_plan_make("", &l->conv, g->batch, &plan) != CNN_OK)
                continue; /* reported before */
            pad = plan.pad_floats > pad ? plan.pad_floats : pad;
            part = plan.part_floats > part ? plan.part_floats : part;
        }
    }
    for (int i = 0; i < 2; i++)
        g->gradient[i] = g->training ? cnn__take_floats(arena, cnn__mul(batch, largest)) : NULL;
    g->pad = cnn__take_floats(arena, pad);
    g->part = cnn__take_floats(arena, g->training ? part : 1);
}

static void cnn__gpu_net_free(cnn__gpu_net *g) {
    if (!g)
        return;
    if (g->stream) {
        cnn__cuda_forget(cudaStreamSynchronize(g->stream));
        cnn__cuda_forget(cudaStreamDestroy(g->stream));
    }
    if (g->memory)
        cnn__cuda_forget(cudaFree(g->memory));
    if (g->pinned)
        cnn__cuda_forget(cudaFreeHost(g->pinned));
    cnn__free(g);
}

static cnn_status cnn__gpu_net_take(const char *where, cnn__gpu_net *g, int whole) {
    const cnn_net *net = g->net;
    cnn__arena arena = {NULL, 0};
    for (int i = 0; i < net->count; i++) {
        const cnn_layer *l = &net->layers[i];
        const cnn_layer_info *info = &net->info[i];
        cnn__conv_plan plan;
        if (l->kind == CNN_CONV2D) {
            CNN__TRY(
                cnn__layer_conv_setup(where, l, info->in_c, info->in_h, info->in_w, 1, &g->layer[i].conv));
            CNN__TRY(cnn__conv_plan_make(where, &g->layer[i].conv, g->batch, &plan));
        } else if (l->kind == CNN_MAXPOOL2D || l->kind == CNN_AVGPOOL2D || l->kind == CNN_GLOBALAVGPOOL2D) {
            CNN__TRY(cnn__layer_pool_setup(where, l, info->in_h, info->in_w, &g->layer[i].pool));
        }
    }
    for (int i = 0; i < net->count; i++) {
        g->layer[i].in = cnn__elements(1, net->info[i].in_c, net->info[i].in_h, net->info[i].in_w);
        g->layer[i].out = cnn__elements(1, net->info[i].c, net->info[i].h, net->info[i].w);
    }
    if (whole || cnn__cuda_no_fuse || !cnn__fuse(g, g->fused))
        g->fused = NULL;
    cnn__gpu_net_carve(g, &arena);
    if (arena.used == SIZE_MAX)
        return cnn__fail(CNN_ERR_SHAPE, "%s: a batch of %d overflows the address space", where, g->batch);
    const size_t input = cnn__elements(1, net->c, net->h, net->w);
    const size_t staged = g->training ? cnn__mul((size_t)g->batch, input * sizeof(float) + 1) : 0;
    CNN__CUDA(where, cudaStreamCreateWithFlags(&g->stream, cudaStreamNonBlocking));
    const cnn_status taken = cnn__cuda_take(where, &g->memory, arena.used, __LINE__);
    if (taken == CNN_ERR_NOMEM)
        return cnn__fail(taken, "%s: out of device memory: a batch of %d takes %zu bytes", where, g->batch,
                         arena.used);
    CNN__TRY(taken);
    CNN__CUDA(where, cudaMallocHost(&g->pinned, sizeof(cnn__tally) + staged));
    arena.base = (char *)g->memory;
    arena.used = 0;
    cnn__gpu_net_carve(g, &arena);
    g->report = (cnn__tally *)g->pinned;
    g->staged = (unsigned char *)(g->report + 1);
    CNN__CUDA(where, cudaMemsetAsync(g->tally, 0, sizeof(cnn__tally), g->stream));
    return g->fused ? cnn__fused_allow(where, g->fused) : CNN_OK;
}

/* whole: for cnn_forward and cnn_backward in turn, so layer by layer. */
static cnn_status cnn__gpu_net_create(const char *where, cnn__gpu_net **to, const cnn_net *net, int training,
                                      int whole, int batch) {
    const size_t fused = cnn__round_up(sizeof(cnn__gpu_net), CNN__ALIGN);
    const size_t head = fused + cnn__round_up(sizeof(cnn__fused), CNN__ALIGN);
    const size_t bytes = head + (size_t)net->count * sizeof(cnn__gpu_layer);
    cnn__gpu_net *g = (cnn__gpu_net *)cnn__alloc(bytes);
    if (!g)
        return cnn__no_memory(where, bytes);
    g->net = net;
    g->training = training;
    g->batch = batch;
    g->fused = (cnn__fused *)(void *)((char *)g + fused);
    g->layer = (cnn__gpu_layer *)(void *)((char *)g + head);
    const cnn_status status = cnn__gpu_net_take(where, g, whole);
    if (status == CNN_OK)
        *to = g;
    else
        cnn__gpu_net_free(g);
    return status;
}

/* A pass over n examples: whose parameters, where their gradients go, and the seed of dropout: that of pass
   tally->step + 1 if counted, else `seed` itself. */
typedef struct cnn__gpu_pass {
    const char *where;
    cnn__gpu_net *g;
    int n;
    const float *parameters;
    float *gradients;
    int accumulate, counted;
    uint64_t seed;
} cnn__gpu_pass;

/* Dropout within a network: the seed is the layer's, drawn from the pass's. */
struct cnn__f_net_dropout {
    const float *x;
    float *y, p;
    uint64_t seed;
    int layer, counted;
    const cnn__tally *tally;
    __device__ void operator()(size_t i) const {
        const uint64_t pass = counted ? cnn__random(seed, (uint64_t)tally->step + 1) : seed;
        y[i] = x[i] * cnn__dropout_scale(p, cnn__random(pass, (uint64_t)layer), i);
    }
};

static cnn_status cnn__gpu_dropout(const cnn__gpu_pass *e, int layer, const float *x, float *y) {
    const float set = e->g->net->layers[layer].p;
    const cnn__f_net_dropout f = {x, y, set > 0 ? set : 0.5f, e->seed, layer, e->counted, e->g->tally};
    return cnn__launch_map(e->where, e->g->stream, f, (size_t)e->n * e->g->layer[layer].out);
}

/* A layer, and the activation behind it where that works in place; *next is the layer to go on with. */
static cnn_status cnn__gpu_layer_forward(const cnn__gpu_pass *e, int layer, int *next) {
    cnn__gpu_net *g = e->g;
    const cnn_net *net = g->net;
    const cnn_layer *l = &net->layers[layer];
    const cnn_layer_info *info = &net->info[layer];
    const cnn__gpu_layer *p = &g->layer[layer];
    const float *w = e->parameters + net->offset[layer], *bias = info->biases ? w + info->weights : NULL;
    const size_t count = (size_t)e->n * p->out;
    int activation = 0;
    *next = layer + 1;
    if ((l->kind == CNN_CONV2D || l->kind == CNN_LINEAR) && layer + 1 < net->count &&
        cnn__is_activation(net->layers[layer + 1].kind) && g->layer[layer + 1].alias) {
        activation = (int)net->layers[layer + 1].kind;
        *next = layer + 2;
    }
    switch (l->kind) {
    case CNN_CONV2D: {
        cnn__conv_plan plan;
        CNN__TRY(cnn__conv_plan_make(e->where, &p->conv, e->n, &plan));
        return cnn__launch_conv(e->where, g->stream, &plan, p->x, w, bias, activation, g->pad, p->y);
    }
    case CNN_LINEAR:
        return cnn__launch_linear(e->where, g->stream, e->n, (int)p->in, l->out, p->x, w, bias, activation,
                                  p->y);
    case CNN_MAXPOOL2D:
        return cnn__launch_maxpool(e->where, g->stream, &p->pool, e->n, info->c, p->x, p->y, p->indices);
    case CNN_AVGPOOL2D:
    case CNN_GLOBALAVGPOOL2D:
        return cnn__launch_avgpool(e->where, g->stream, &p->pool, e->n, info->c, p->x, p->y);
    case CNN_SOFTMAX: {
        const size_t plane = p->out / (size_t)info->c;
        const cnn__f_softmax f = {p->x, p->y, info->c, plane};
        return cnn__launch_map(e->where, g->stream, f, (size_t)e->n * plane);
    }
    case CNN_DROPOUT:
        if (g->training)
            return cnn__gpu_dropout(e, layer, p->x, p->y);
        return CNN_OK; /* in place */
    case CNN_SIGMOID:
    case CNN_TANH:
    case CNN_RELU: {
        const cnn__f_activation f = {(int)l->kind, p->x, p->y};
        return cnn__launch_map(e->where, g->stream, f, count);
    }
    case CNN_FLATTEN: /* in place */
    default:
        return CNN_OK;
    }
}

/* The outputs are those of the last layer, which cnn__gpu_outputs names. */
static cnn_status cnn__gpu_forward(const cnn__gpu_pass *e) {
    for (int i = 0, next = 0; i < e->g->net->count; i = next)
        CNN__TRY(cnn__gpu_layer_forward(e, i, &next));
    return CNN_OK;
}

static float *cnn__gpu_outputs(const cnn__gpu_net *g) {
    return g->fused ? g->fused->logits : g->layer[g->net->count - 1].y;
}

/* From dy, which may be overwritten, to the parameters' gradients and, unless NULL, dx. */
static cnn_status cnn__gpu_layer_backward(const cnn__gpu_pass *e, int layer, float *dy, float *dx) {
    cnn__gpu_net *g = e->g;
    const cnn_net *net = g->net;
    const cnn_layer *l = &net->layers[layer];
    const cnn_layer_info *info = &net->info[layer];
    const cnn__gpu_layer *p = &g->layer[layer];
    const float *w = e->parameters + net->offset[layer];
    float *dw = e->gradients + net->offset[layer], *db = info->biases ? dw + info->weights : NULL;
    switch (l->kind) {
    case CNN_CONV2D: {
        cnn__conv_plan plan;
        CNN__TRY(cnn__conv_plan_make(e->where, &p->conv, e->n, &plan));
        CNN__TRY(cnn__launch_conv_dw(e->where, g->stream, &plan, p->x, dy, g->pad, g->part, e->accumulate, dw,
                                     db));
        return dx ? cnn__launch_conv_dx(e->where, g->stream, &plan, w, dy, g->pad, dx) : CNN_OK;
    }
    case CNN_LINEAR:
        CNN__TRY(cnn__launch_linear_dw(e->where, g->stream, e->n, (int)p->in, l->out, p->x, dy, e->accumulate,
                                       dw, db));
        return dx ? cnn__launch_linear_dx(e->where, g->stream, e->n, (int)p->in, l->out, dy, w, dx) : CNN_OK;
    case CNN_MAXPOOL2D:
        return cnn__launch_maxpool_backward(e->where, g->stream, &p->pool, e->n, info->c, dy, p->indices, dx);
    case CNN_AVGPOOL2D:
    case CNN_GLOBALAVGPOOL2D:
        return cnn__launch_avgpool_backward(e->where, g->stream, &p->pool, e->n, info->c, dy, dx);
    case CNN_SOFTMAX: {
        const size_t plane = p->out / (size_t)info->c;
        const cnn__f_softmax_backward f = {p->y, dy, dx, info->c, plane};
        return cnn__launch_map(e->where, g->stream, f, (size_t)e->n * plane);
    }
    case CNN_DROPOUT:
        return cnn__gpu_dropout(e, layer, dy, dx);
    case CNN_SIGMOID:
    case CNN_TANH:
    case CNN_RELU: {
        const cnn__f_activation_backward f = {(int)l->kind, p->y, dy, dx};
        return cnn__launch_map(e->where, g->stream, f, (size_t)e->n * p->out);
    }
    case CNN_FLATTEN: /* in place */
    default:
        return CNN_OK;
    }
}

/* From the outputs' gradient in g->gradient[0]. Returns, if wanted, where dx of the input lies. */
static cnn_status cnn__gpu_backward(const cnn__gpu_pass *e, float **input_gradient) {
    cnn__gpu_net *g = e->g;
    const cnn_net *net = g->net;
    float *dy = g->gradient[0], *other = g->gradient[1];
    int lowest = 0;
    while (!input_gradient && lowest < net->count && !net->info[lowest].weights)
        lowest++;
    for (int i = net->count - 1; i >= lowest; i--) {
        const int in_place = cnn__kinds[net->layers[i].kind].in_place;
        const int last = i == lowest && !input_gradient;
        CNN__TRY(cnn__gpu_layer_backward(e, i, dy, last ? NULL : in_place ? dy : other));
        if (!in_place && !last) {
            float *t = dy;
            dy = other;
            other = t;
        }
    }
    if (input_gradient)
        *input_gradient = dy;
    return CNN_OK;
}

/* A batch's x and labels, from where the tally stands. */
static cnn_status cnn__gpu_gather(const cnn__gpu_pass *e, const cnn__resident *data, const int *index) {
    cnn__gpu_net *g = e->g;
    const cnn__f_gather f = {*data, index, g->tally, g->input, g->labels};
    return cnn__launch_map(e->where, g->stream, f, (size_t)e->n * (size_t)data->features);
}

/* Loss and, in training, the outputs' gradient. confusion may be NULL. */
static cnn_status cnn__gpu_loss(const cnn__gpu_pass *e, int classes, int *confusion) {
    cnn__gpu_net *g = e->g;
    const cnn__f_loss f = {cnn__gpu_outputs(g), g->labels, classes,  1.0f / (float)e->n,
                           g->gradient[0],      g->losses, g->right, confusion};
    return cnn__launch_map(e->where, g->stream, f, (size_t)e->n);
}

static cnn_status cnn__gpu_end_step(const cnn__gpu_pass *e) {
    cnn__gpu_net *g = e->g;
    CNN__RUN(e->where, cnn__gpu_tally, 1, CNN__BLOCK, 2 * CNN__BLOCK * sizeof(double), g->stream, g->losses,
             g->right, e->n, g->tally);
    return CNN_OK;
}

/* From x in g->input to the outputs. */
static cnn_status cnn__gpu_infer(const cnn__gpu_pass *e) {
    cnn__gpu_net *g = e->g;
    const cnn_net *net = g->net;
    const cnn__resident data = {NULL, g->input, NULL, (int)cnn__elements(1, net->c, net->h, net->w), 0};
    if (!g->fused)
        return cnn__gpu_forward(e);
    CNN__TRY(cnn__launch_pack(e->where, g->stream, g->fused, e->parameters));
    return cnn__launch_fused(e->where, g->stream, g->fused, e->n, e->parameters, &data, NULL, NULL, NULL, 0,
                             g->losses, g->right, NULL);
}

/* The loss of a batch of a data set. */
static cnn_status cnn__gpu_test(const cnn__gpu_pass *e, const cnn__resident *data, int *confusion) {
    cnn__gpu_net *g = e->g;
    if (g->fused) {
        CNN__TRY(cnn__launch_fused(e->where, g->stream, g->fused, e->n, e->parameters, data, NULL, g->tally,
                                   g->labels, 0, g->losses, g->right, confusion));
        return cnn__gpu_end_step(e);
    }
    CNN__TRY(cnn__gpu_gather(e, data, NULL));
    CNN__TRY(cnn__gpu_forward(e));
    CNN__TRY(cnn__gpu_loss(e, data->classes, confusion));
    return cnn__gpu_end_step(e);
}

/* A training step on a batch of a data set: the gradients, or with u->step the parameters. */
static cnn_status cnn__gpu_train(const cnn__gpu_pass *e, const cnn__resident *data, const int *index,
                                 const cnn__update *u) {
    cnn__gpu_net *g = e->g;
    if (g->fused) {
        if (!u->step) /* after a step they are packed */
            CNN__TRY(cnn__launch_pack(e->where, g->stream, g->fused, e->parameters));
        CNN__TRY(cnn__launch_fused(e->where, g->stream, g->fused, e->n, e->parameters, data, index, g->tally,
                                   g->labels, 1, g->losses, g->right, NULL));
        return cnn__launch_fused_backward(e->where, g->stream, g->fused, e->n, data, g->tally, g->losses,
                                          g->right, u);
    }
    CNN__TRY(cnn__gpu_gather(e, data, index));
    CNN__TRY(cnn__gpu_forward(e));
    CNN__TRY(cnn__gpu_loss(e, data->classes, NULL));
    CNN__TRY(cnn__gpu_backward(e, NULL));
    if (u->step && g->net->parameter_count) {
        const cnn__f_fit_sgd sgd = {u->rule, u->tally, u->parameters, u->gradients, u->velocity};
        CNN__TRY(cnn__launch_map(e->where, g->stream, sgd, g->net->parameter_count));
    }
    return cnn__gpu_end_step(e);
}

/* Queues a copy of the tally into g->report. */
static cnn_status cnn__gpu_report(const char *where, cnn__gpu_net *g) {
    CNN__CUDA(where,
              cudaMemcpyAsync(g->report, g->tally, sizeof(cnn__tally), cudaMemcpyDeviceToHost, g->stream));
    return CNN_OK;
}

/* ---- workspaces ---- */

static const cnn__table *cnn__cuda(void);

/* The host's part: the struct, and with it, where the memory is the caller's, the gradients. */
static cnn_workspace *cnn__cuda_workspace_carve(cnn__arena *arena, const cnn_net *net, cnn_mode mode, int own,
                                                float **gradients) {
    cnn_workspace *ws = (cnn_workspace *)cnn__take(arena, 1, sizeof(cnn_workspace));
    *gradients = own || mode == CNN_INFERENCE ? NULL : cnn__take_floats(arena, net->parameter_count + 1);
    return ws;
}

static void cnn__cuda_workspace_free(cnn_workspace *ws) {
    cnn__gpu_net_free((cnn__gpu_net *)ws->device);
    if (ws->owned)
        cnn__free(ws->gradients);
    cnn__free(ws->owned);
}

static cnn_status cnn__cuda_workspace_make(const char *where, cnn_workspace **to, const cnn_net *net,
                                           cnn_mode mode, int batch, int threads, void *memory, size_t bytes,
                                           int own, size_t *needed) {
    CNN__TRY(cnn__workspace_check(where, net, mode, batch, threads));
    cnn__arena arena = {NULL, 0};
    float *gradients = NULL;
    cnn__cuda_workspace_carve(&arena, net, mode, own, &gradients);
    if (needed) {
        *needed = arena.used + CNN__ALIGN - 1;
        return CNN_OK;
    }
    void *owned = own ? cnn__alloc(arena.used) : NULL;
    if (own && !owned)
        return cnn__no_memory(where, arena.used);
    const size_t need = arena.used;
    arena.base = own ? (char *)owned : cnn__align_within(memory, bytes, need);
    if (!arena.base)
        return cnn__fail(CNN_ERR_NOMEM,
                         "%s: the memory handed in has %zu bytes, cnn_workspace_bytes asks for %zu", where,
                         bytes, need + CNN__ALIGN - 1);
    if (!own)
        memset(arena.base, 0, need);
    arena.used = 0;
    cnn_workspace *ws = cnn__cuda_workspace_carve(&arena, net, mode, own, &gradients);
    ws->ops = cnn__cuda();
    ws->mode = mode;
    ws->batch = batch;
    ws->threads = 1;
    ws->layer_count = net->count;
    ws->parameter_count = net->parameter_count;
    ws->owned = owned;
    ws->gradients = gradients;
    cnn_status status = CNN_OK;
    if (own && mode != CNN_INFERENCE) {
        const size_t size = cnn__mul(net->parameter_count + 1, sizeof(float));
        ws->gradients = (float *)cnn__cuda_allocate(size);
        if (!ws->gradients)
            status = cnn__no_memory(where, size);
    }
    cnn__gpu_net *g = NULL;
    if (status == CNN_OK)
        status = cnn__gpu_net_create(where, &g, net, mode != CNN_INFERENCE, mode == CNN_TRAINING, batch);
    ws->device = g;
    if (status == CNN_OK)
        *to = ws;
    else
        cnn__cuda_workspace_free(ws);
    return status;
}

/* A call on a workspace: the net's parameters, and the gradients where wanted, as the device sees them. */
static cnn__gpu_pass cnn__gpu_pass_begin(cnn__call *c, const cnn_net *net, cnn_workspace *ws, int n,
                                         int gradients) {
    cnn__gpu_net *g = (cnn__gpu_net *)ws->device;
    cnn__gpu_pass e;
    *c = cnn__call_begin(c->where, g->stream);
    memset(&e, 0, sizeof e);
    e.where = c->where;
    e.g = g;
    e.n = n;
    e.seed = cnn__random(ws->seed, ws->pass);
    const size_t bytes = (net->parameter_count ? net->parameter_count : 1) * sizeof(float);
    e.parameters = (const float *)cnn__call_view(c, net->parameters, bytes, CNN__IN);
    if (gradients)
        e.gradients = (float *)cnn__call_view(c, ws->gradients, bytes, gradients);
    g->net = net;
    return e;
}

static cnn_status cnn__gpu_copy(const cnn__gpu_pass *e, void *to, const void *from, size_t bytes) {
    CNN__CUDA(e->where, cudaMemcpyAsync(to, from, bytes, cudaMemcpyDefault, e->g->stream));
    return CNN_OK;
}

static cnn_status cnn__cuda_forward(const char *where, const cnn_net *net, cnn_workspace *ws,
                                    const cnn_tensor *x, cnn_tensor *y, int *classes) {
    cnn__call c = cnn__call_begin(where, 0);
    const cnn__gpu_pass e = cnn__gpu_pass_begin(&c, net, ws, x->n, 0);
    const size_t outputs = cnn__outputs(net);
    CNN__THEN(c, cnn__gpu_copy(&e, e.g->input, x->data, cnn__size(x) * sizeof(float)));
    CNN__THEN(c, ws->mode == CNN_INFERENCE ? cnn__gpu_infer(&e) : cnn__gpu_forward(&e));
    if (y)
        CNN__THEN(c,
                  cnn__gpu_copy(&e, y->data, cnn__gpu_outputs(e.g), (size_t)x->n * outputs * sizeof(float)));
    if (classes) {
        const cnn__f_predict f = {cnn__gpu_outputs(e.g), (int)outputs, e.g->right};
        CNN__THEN(c, cnn__launch_map(where, c.stream, f, (size_t)x->n));
        CNN__THEN(c, cnn__gpu_copy(&e, classes, e.g->right, (size_t)x->n * sizeof(int)));
    }
    return cnn__call_end(&c);
}

static cnn_status cnn__cuda_backward(const char *where, const cnn_net *net, cnn_workspace *ws,
                                     const cnn_tensor *dy, cnn_tensor *dx) {
    cnn__call c = cnn__call_begin(where, 0);
    cnn__gpu_pass e = cnn__gpu_pass_begin(&c, net, ws, dy->n, CNN__IN | CNN__OUT);
    float *input_gradient = NULL;
    e.accumulate = 1;
    CNN__THEN(c, cnn__gpu_copy(&e, e.g->gradient[0], dy->data, cnn__size(dy) * sizeof(float)));
    CNN__THEN(c, cnn__gpu_backward(&e, dx ? &input_gradient : NULL));
    if (dx)
        CNN__THEN(c, cnn__gpu_copy(&e, dx->data, input_gradient, cnn__size(dx) * sizeof(float)));
    return cnn__call_end(&c);
}

/* Examples of a data set in the program's memory to the device: rows as they are, bytes or floats, behind
   them the labels. */
static cnn_status cnn__gpu_stage(const cnn__gpu_pass *e, const cnn_dataset *data, const int *index,
                                 cnn__resident *resident) {
    cnn__gpu_net *g = e->g;
    const size_t f = cnn__elements(1, data->c, data->h, data->w), row = data->bytes ? f : f * sizeof(float);
    const unsigned char *from = data->bytes ? data->bytes : (const unsigned char *)(const void *)data->floats;
    for (int i = 0; i < e->n; i++) {
        const size_t at = (size_t)(index ? index[i] : i);
        memcpy(g->staged + (size_t)i * row, from + at * row, row);
        g->staged[(size_t)e->n * row + (size_t)i] = data->labels[at];
    }
    memset(resident, 0, sizeof *resident);
    resident->bytes = data->bytes ? g->staged_on : NULL;
    resident->floats = data->bytes ? NULL : (const float *)(const void *)g->staged_on;
    resident->labels = g->staged_on + (size_t)e->n * row;
    resident->features = (int)f;
    resident->classes = data->classes;
    return cnn__gpu_copy(e, g->staged_on, g->staged, (size_t)e->n * (row + 1));
}

static cnn_status cnn__cuda_train_batch(const char *where, const cnn_net *net, cnn_workspace *ws,
                                        const cnn_dataset *data, const int *index, int n, double *loss,
                                        int *correct) {
    cnn__call c = cnn__call_begin(where, 0);
    cnn__resident resident;
    ws->pass++;
    const cnn__gpu_pass e = cnn__gpu_pass_begin(&c, net, ws, n, CNN__OUT);
    CNN__THEN(c, cnn__cuda_check(where, cudaMemsetAsync(e.g->tally, 0, sizeof(cnn__tally), c.stream),
                                 "cudaMemsetAsync", __LINE__));
    CNN__THEN(c, cnn__gpu_stage(&e, data, index, &resident));
    cnn__update u;
    memset(&u, 0, sizeof u);
    u.tally = e.g->tally;
    u.parameters = const_cast<float *>(e.parameters);
    u.gradients = e.gradients;
    CNN__THEN(c, cnn__gpu_train(&e, &resident, NULL, &u));
    CNN__THEN(c, cnn__gpu_report(where, e.g));
    CNN__TRY(cnn__call_end(&c));
    if (!cnn__finite(e.g->report->loss))
        return cnn__fail(CNN_ERR_DIVERGED,
                         "%s: the loss is %g: the training diverged; try a smaller learning rate", where,
                         e.g->report->loss);
    if (loss)
        *loss += e.g->report->loss;
    if (correct)
        *correct += (int)e.g->report->correct;
    return CNN_OK;
}

/* ---- training and evaluation ---- */

/* A data set in device memory, by itself. */
static cnn_status cnn__resident_create(const char *where, const cnn_dataset *data, void **memory,
                                       cnn__resident *resident, cudaStream_t stream) {
    const size_t f = cnn__elements(1, data->c, data->h, data->w), row = data->bytes ? f : f * sizeof(float);
    const size_t rows = cnn__mul((size_t)data->count, row), head = cnn__round_up(rows, CNN__ALIGN);
    const void *from = data->bytes ? (const void *)data->bytes : (const void *)data->floats;
    CNN__CUDA_TAKE(where, memory, cnn__add(head, (size_t)data->count));
    CNN__CUDA(where, cudaMemcpyAsync(*memory, from, rows, cudaMemcpyDefault, stream));
    unsigned char *base = (unsigned char *)*memory;
    CNN__CUDA(where,
              cudaMemcpyAsync(base + head, data->labels, (size_t)data->count, cudaMemcpyDefault, stream));
    memset(resident, 0, sizeof *resident);
    resident->bytes = data->bytes ? base : NULL;
    resident->floats = data->bytes ? NULL : (const float *)*memory;
    resident->labels = base + head;
    resident->features = (int)f;
    resident->classes = data->classes;
    return CNN_OK;
}

enum { CNN__GPU_EVALUATE_BATCH = 1024 };

/* A data set to evaluate on, and a network for it. */
typedef struct cnn__gpu_evaluator {
    cnn__gpu_net *g;
    void *memory;
    int *confusion;
    cnn__resident data;
    int count;
} cnn__gpu_evaluator;

static void cnn__gpu_evaluator_free(cnn__gpu_evaluator *v) {
    cnn__gpu_net_free(v->g); /* waits */
    if (v->memory)
        cnn__cuda_forget(cudaFree(v->memory));
    if (v->confusion)
        cnn__cuda_forget(cudaFree(v->confusion));
}

static cnn_status cnn__gpu_evaluator_create(const char *where, cnn__gpu_evaluator *v, const cnn_net *net,
                                            const cnn_dataset *data, int confusion) {
    v->count = data->count;
    CNN__TRY(cnn__gpu_net_create(where, &v->g, net, 0, 0, cnn__min(CNN__GPU_EVALUATE_BATCH, data->count)));
    if (confusion)
        CNN__CUDA_TAKE(where, &v->confusion, (size_t)data->classes * (size_t)data->classes * sizeof(int));
    CNN__TRY(cnn__resident_create(where, data, &v->memory, &v->data, v->g->stream));
    CNN__CUDA(where, cudaStreamSynchronize(v->g->stream));
    return CNN_OK;
}

/* Waits for the result. */
static cnn_status cnn__gpu_evaluator_run(const char *where, cnn__gpu_evaluator *v, const float *parameters,
                                         cnn_evaluation *result) {
    cnn__gpu_net *g = v->g;
    const size_t cells = (size_t)v->data.classes * (size_t)v->data.classes;
    CNN__CUDA(where, cudaMemsetAsync(g->tally, 0, sizeof(cnn__tally), g->stream));
    if (v->confusion)
        CNN__CUDA(where, cudaMemsetAsync(v->confusion, 0, cells * sizeof(int), g->stream));
    if (g->fused)
        CNN__TRY(cnn__launch_pack(where, g->stream, g->fused, parameters));
    for (int i = 0; i < v->count; i += g->batch) {
        const cnn__gpu_pass e = {where, g, cnn__min(g->batch, v->count - i), parameters, NULL, 0, 0, 0};
        CNN__TRY(cnn__gpu_test(&e, &v->data, v->confusion));
    }
    CNN__TRY(cnn__gpu_report(where, g));
    if (v->confusion)
        CNN__CUDA(where, cudaMemcpyAsync(result->confusion, v->confusion, cells * sizeof(int),
                                         cudaMemcpyDeviceToHost, g->stream));
    CNN__CUDA(where, cudaStreamSynchronize(g->stream));
    result->loss = g->report->loss / v->count;
    result->accuracy = (double)g->report->correct / v->count;
    return CNN_OK;
}

static cnn_status cnn__cuda_evaluate(const char *where, const cnn_net *net, const cnn_dataset *data,
                                     int threads, cnn_evaluation *result) {
    cnn__gpu_evaluator v;
    cnn__call c = cnn__call_begin(where, 0);
    (void)threads; /* the CPU's */
    memset(&v, 0, sizeof v);
    c.status = cnn__gpu_evaluator_create(where, &v, net, data, result->confusion != NULL);
    if (v.g)
        c.stream = v.g->stream;
    const size_t bytes = (net->parameter_count ? net->parameter_count : 1) * sizeof(float);
    const float *parameters = (const float *)cnn__call_view(&c, net->parameters, bytes, CNN__IN);
    CNN__THEN(c, cnn__gpu_evaluator_run(where, &v, parameters, result));
    const cnn_status status = cnn__call_end(&c);
    cnn__gpu_evaluator_free(&v);
    return status;
}

/* cnn_fit on the device. The data set, the parameters and the order of an epoch live there; steps go in CUDA
   graphs; the host waits at reports, at the end of an epoch and for evaluations. */
typedef struct cnn__gpu_fit {
    cnn__gpu_net *g;
    cnn__gpu_evaluator test;
    void *data_memory, *memory;
    cnn__resident data;
    float *parameters, *gradients, *velocity;
    double *parts;         /* of the parameters' sum, by which a fatal last step is found */
    double *sum;           /* pinned */
    int *index, *order[2]; /* on the device; pinned, of this epoch and the next */
    int shuffled;          /* the last epoch whose order is made */
    cudaGraphExec_t many, one;
    int full; /* steps of an epoch that have a whole batch */
} cnn__gpu_fit;

enum { CNN__GRAPH_STEPS = 16 };

static cnn_status cnn__gpu_step(const cnn__fit *f, cnn__gpu_fit *d, int n) {
    cnn__gpu_net *g = d->g;
    const double last = (double)f->progress.epochs * f->progress.steps - 1;
    const cnn__rule rule = {f->o->sgd, f->o->lr_end, last};
    const cnn__gpu_pass e = {"cnn_fit", g, n, d->parameters, d->gradients, 0, 1, f->o->seed};
    const cnn__update u = {rule, 1, g->tally, d->parameters, d->gradients, d->velocity};
    return cnn__gpu_train(&e, &d->data, d->index, &u);
}

static cnn_status cnn__gpu_graph(const cnn__fit *f, cnn__gpu_fit *d, int steps, cudaGraphExec_t *to) {
    static const char *const where = "cnn_fit";
    cudaGraph_t graph = NULL;
    cnn_status status = CNN_OK;
    CNN__CUDA(where, cudaStreamBeginCapture(d->g->stream, cudaStreamCaptureModeThreadLocal));
    for (int i = 0; i < steps && status == CNN_OK; i++)
        status = cnn__gpu_step(f, d, f->o->batch);
    const cnn_status ended =
        cnn__cuda_check(where, cudaStreamEndCapture(d->g->stream, &graph), "cudaStreamEndCapture", __LINE__);
    if (status == CNN_OK)
        status = ended;
    if (status == CNN_OK)
        status = cnn__cuda_check(where, cudaGraphInstantiate(to, graph, 0), "cudaGraphInstantiate", __LINE__);
    if (graph) {
        const cnn_status freed =
            cnn__cuda_check(where, cudaGraphDestroy(graph), "cudaGraphDestroy", __LINE__);
        status = status == CNN_OK ? freed : status;
    }
    return status;
}

static cnn_status cnn__gpu_fit_take(cnn__fit *f, cnn__gpu_fit *d) {
    static const char *const where = "cnn_fit";
    const size_t count = f->net->parameter_count + 1, examples = (size_t)f->train->count;
    cnn__arena arena = {NULL, 0};
    CNN__TRY(cnn__gpu_net_create(where, &d->g, f->net, 1, 0, f->o->batch));
    CNN__TRY(cnn__resident_create(where, f->train, &d->data_memory, &d->data, d->g->stream));
    for (int i = 0; i < 2; i++) {
        if (i) {
            CNN__CUDA_TAKE(where, &d->memory, arena.used);
            arena.base = (char *)d->memory;
            arena.used = 0;
        }
        d->parameters = cnn__take_floats(&arena, count);
        d->gradients = cnn__take_floats(&arena, count);
        d->velocity = cnn__take_floats(&arena, f->o->sgd.momentum > 0 ? count : 1);
        d->parts = (double *)cnn__take(&arena, cnn__sum_parts(count), sizeof(double));
        d->index = (int *)cnn__take(&arena, examples, sizeof(int));
    }
    CNN__CUDA(where, cudaMemsetAsync(d->memory, 0, arena.used, d->g->stream));
    if (f->net->parameter_count)
        CNN__CUDA(where, cudaMemcpyAsync(d->parameters, f->net->parameters, (count - 1) * sizeof(float),
                                         cudaMemcpyDefault, d->g->stream));
    if (d->g->fused)
        CNN__TRY(cnn__launch_pack(where, d->g->stream, d->g->fused, d->parameters));
    CNN__CUDA(where, cudaMallocHost((void **)&d->sum, sizeof(double) + 2 * examples * sizeof(int)));
    d->order[0] = (int *)(void *)(d->sum + 1);
    d->order[1] = d->order[0] + examples;
    CNN__CUDA(where, cudaStreamSynchronize(d->g->stream));
    d->full = f->train->count / f->o->batch;
    if (d->full >= CNN__GRAPH_STEPS)
        CNN__TRY(cnn__gpu_graph(f, d, CNN__GRAPH_STEPS, &d->many));
    CNN__TRY(cnn__gpu_graph(f, d, 1, &d->one));
    return f->test ? cnn__gpu_evaluator_create(where, &d->test, f->net, f->test, 0) : CNN_OK;
}

static cnn_status cnn__cuda_fit_begin(cnn__fit *f) {
    cnn__gpu_fit *d = (cnn__gpu_fit *)cnn__alloc(sizeof(cnn__gpu_fit));
    if (!d)
        return cnn__no_memory("cnn_fit", sizeof(cnn__gpu_fit));
    f->device = d;
    return cnn__gpu_fit_take(f, d);
}

static void cnn__cuda_fit_end(cnn__fit *f) {
    cnn__gpu_fit *d = (cnn__gpu_fit *)f->device;
    if (!d)
        return;
    if (d->g && d->g->stream)
        cnn__cuda_forget(cudaStreamSynchronize(d->g->stream));
    if (d->many)
        cnn__cuda_forget(cudaGraphExecDestroy(d->many));
    if (d->one)
        cnn__cuda_forget(cudaGraphExecDestroy(d->one));
    cnn__gpu_evaluator_free(&d->test);
    cnn__gpu_net_free(d->g);
    if (d->data_memory)
        cnn__cuda_forget(cudaFree(d->data_memory));
    if (d->memory)
        cnn__cuda_forget(cudaFree(d->memory));
    if (d->sum)
        cnn__cuda_forget(cudaFreeHost(d->sum));
    cnn__free(d);
}

/* Makes the order of an epoch unless it is there. */
static void cnn__gpu_fit_order(const cnn__fit *f, cnn__gpu_fit *d, int epoch) {
    if (d->shuffled >= epoch)
        return;
    cnn_shuffle(d->order[epoch % 2], f->train->count, f->o->seed, (uint64_t)epoch);
    d->shuffled = epoch;
}

/* Queues steps `from` to `to` - 1 of the epoch. */
static cnn_status cnn__gpu_fit_steps(cnn__fit *f, cnn__gpu_fit *d, int from, int to) {
    static const char *const where = "cnn_fit";
    while (from < to) {
        const int left = cnn__min(to, d->full) - from;
        if (d->many && left >= CNN__GRAPH_STEPS) {
            CNN__CUDA(where, cudaGraphLaunch(d->many, d->g->stream));
            from += CNN__GRAPH_STEPS;
        } else if (left > 0) {
            CNN__CUDA(where, cudaGraphLaunch(d->one, d->g->stream));
            from++;
        } else {
            CNN__TRY(cnn__gpu_step(f, d, f->train->count - d->full * f->o->batch));
            from++;
        }
    }
    return CNN_OK;
}

/* Queues what a report reads, then waits; the order of the next epoch is made meanwhile. */
static cnn_status cnn__gpu_fit_wait(cnn__fit *f, cnn__gpu_fit *d, int end) {
    static const char *const where = "cnn_fit";
    const size_t count = f->net->parameter_count;
    CNN__TRY(cnn__gpu_report(where, d->g));
    *d->sum = 0;
    if (end && count) {
        const cnn__f_float values = {d->parameters};
        CNN__TRY(cnn__launch_sum(where, d->g->stream, values, count, d->parts));
        CNN__CUDA(where, cudaMemcpyAsync(d->sum, d->parts + cnn__sum_parts(count) - 1, sizeof *d->sum,
                                         cudaMemcpyDeviceToHost, d->g->stream));
    }
    if (count && (end || f->o->on_progress))
        CNN__CUDA(where, cudaMemcpyAsync(f->net->parameters, d->parameters, count * sizeof(float),
                                         cudaMemcpyDefault, d->g->stream));
    if (f->progress.epoch < f->progress.epochs)
        cnn__gpu_fit_order(f, d, f->progress.epoch + 1);
    CNN__CUDA(where, cudaStreamSynchronize(d->g->stream));
    return CNN_OK;
}

static cnn_status cnn__cuda_fit_epoch(cnn__fit *f) {
    static const char *const where = "cnn_fit";
    cnn__gpu_fit *d = (cnn__gpu_fit *)f->device;
    cnn_progress *p = &f->progress;
    const int reports = cnn__or(f->o->reports, 5);
    double start = cnn__seconds();
    cnn__gpu_fit_order(f, d, p->epoch);
    CNN__CUDA(where, cudaMemcpyAsync(d->index, d->order[p->epoch % 2], (size_t)f->train->count * sizeof(int),
                                     cudaMemcpyHostToDevice, d->g->stream));
    CNN__CUDA(where, cudaMemsetAsync(d->g->tally, 0, offsetof(cnn__tally, step), d->g->stream));
    for (p->step = 0; p->step < p->steps && !p->stopped;) {
        int next = p->step + 1;
        while (next < p->steps && !(f->o->on_progress && cnn__report_due(next, p->steps, reports)))
            next++;
        CNN__TRY(cnn__gpu_fit_steps(f, d, p->step, next));
        CNN__TRY(cnn__gpu_fit_wait(f, d, next == p->steps));
        const cnn__tally *t = d->g->report;
        f->seconds += cnn__seconds() - start;
        if (t->bad) {
            p->step = (int)((t->bad - 1) % p->steps);
            return cnn__fit_diverged(f, "the loss is not finite");
        }
        p->step = next;
        f->examples = (int64_t)(p->epoch - 1) * f->train->count + t->at;
        p->loss = t->loss / (double)t->at;
        p->accuracy = (double)t->correct / (double)t->at;
        p->examples_per_second = f->seconds > 0 ? (double)f->examples / f->seconds : 0;
        if (cnn__report_due(p->step, p->steps, reports))
            cnn__fit_call(f, f->o->on_progress);
        start = cnn__seconds();
    }
    return cnn__finite(*d->sum) ? CNN_OK : cnn__fit_diverged(f, "a parameter is not finite");
}

static cnn_status cnn__cuda_fit_test(cnn__fit *f, cnn_evaluation *result) {
    cnn__gpu_fit *d = (cnn__gpu_fit *)f->device;
    return cnn__gpu_evaluator_run("cnn_fit", &d->test, d->parameters, result);
}
#endif /* CNN_CUDA */

/* ---- >>device ----------------------------------------------------------------------------------------- */

static void *cnn__cpu_allocate(size_t bytes) {
    return cnn__alloc(bytes);
}

#define CNN__OPERATOR_CPU(type, name, arguments)  cnn__cpu_##name,
#define CNN__OPERATOR_CUDA(type, name, arguments) cnn__cuda_##name,

static const cnn__table cnn__cpu_table = {CNN__OPERATORS(CNN__OPERATOR_CPU)};
#ifdef CNN_CUDA
static const cnn__table cnn__cuda_table = {CNN__OPERATORS(CNN__OPERATOR_CUDA)};
#endif

static const cnn__table *volatile cnn__active; /* NULL: the CPU's */

static const cnn__table *cnn__cpu(void) {
    return &cnn__cpu_table;
}

static const cnn__table *cnn__ops(void) {
    const cnn__table *const active = cnn__active;
    return active ? active : &cnn__cpu_table;
}

/* What cnn_device_use, cnn_device_name and cnn_device_tf32 do where there is a GPU, or might be. */
#ifdef CNN_CUDA
static const cnn__table *cnn__cuda(void) {
    return &cnn__cuda_table;
}
#else
static cnn_status cnn__cuda_open(const char *where) {
    return cnn__fail(CNN_ERR_DEVICE,
                     "%s: this program was built without CNN_CUDA; compile the file that has "
                     "CNN_IMPLEMENTATION with nvcc: nvcc -x cu -DCNN_CUDA -c FILE.c",
                     where);
}

static const cnn__table *cnn__cuda(void) {
    return NULL;
}

static const char *cnn__cuda_name(void) {
    return "";
}

static cnn_status cnn__cuda_tf32(const char *where, int on) {
    (void)where;
    (void)on;
    return CNN_OK;
}
#endif

CNN_API cnn_status cnn_device_use(cnn_device device) {
    static const char *const where = "cnn_device_use";
    if ((int)device < 0 || (int)device > (int)CNN_DEVICE_CUDA)
        return cnn__fail(CNN_ERR_ARGUMENT, "%s: device %d is unknown", where, (int)device);
    const cnn_status status = device == CNN_DEVICE_CPU ? CNN_ERR_DEVICE : cnn__cuda_open(where);
    if (device == CNN_DEVICE_CUDA && status != CNN_OK)
        return status;
    cnn__active = status == CNN_OK ? cnn__cuda() : NULL;
    return CNN_OK;
}

CNN_API cnn_device cnn_device_active(void) {
    return cnn__active ? CNN_DEVICE_CUDA : CNN_DEVICE_CPU;
}

CNN_API const char *cnn_device_name(void) {
    static char name[32]; /* the same on every call, so threads may write it at once */
    cnn__writer out = {name, 0, sizeof name};
    if (cnn__active)
        return cnn__cuda_name();
    cnn__put_text(&out, "CPU (");
    cnn__put_text(&out, cnn_instruction_set());
    cnn__put_text(&out, ")");
    return name;
}

CNN_API cnn_status cnn_device_tf32(int on) {
    return cnn__cuda_tf32("cnn_device_tf32", on);
}

#ifdef CNN__FAST_MATH
#undef CNN__FAST_MATH
#if defined(__clang__) || defined(_MSC_VER)
#pragma float_control(pop)
#elif CNN__GNU && !defined(__CUDACC__)
#pragma GCC pop_options
#endif
#endif
#endif /* CNN_IMPLEMENTATION, second part */

/*
   MIT License

   Copyright (c) 2026 the cnn.h authors

   Permission is hereby granted, free of charge, to any person obtaining a copy
   of this software and associated documentation files (the "Software"), to deal
   in the Software without restriction, including without limitation the rights
   to use, copy, modify, merge, publish, distribute, sublicense, and/or sell
   copies of the Software, and to permit persons to whom the Software is
   furnished to do so, subject to the following conditions:

   The above copyright notice and this permission notice shall be included in all
   copies or substantial portions of the Software.

   THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR
   IMPLIED, INCLUDING BUT NOT LIMITED TO THE WARRANTIES OF MERCHANTABILITY,
   FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL THE
   AUTHORS OR COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER
   LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR OTHERWISE, ARISING FROM,
   OUT OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE
   SOFTWARE.
*/
