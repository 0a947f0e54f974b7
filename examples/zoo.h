/* The networks of the textbooks as tables of layers for cnn.h. Include cnn.h first.

   A row is a block: a convolution or a linear layer with what follows it. Shapes are channels x
   height x width. */
#ifndef ZOO_H
#define ZOO_H

#include <stddef.h>
#include <string.h>

typedef struct zoo_entry {
    const char *name, *title;
    int c, h, w; /* input shape */
    const cnn_layer *layers;
    int count;
} zoo_entry;

/* clang-format off */

/* LeNet-5 (LeCun et al. 1998) as it is taught today. Train it from CNN_XAVIER_UNIFORM with batches of 256 and
   a learning rate of 0.9, without momentum or weight decay: sigmoids shrink gradients, so steps are long. */
static const cnn_layer zoo_lenet[] = {
    {.kind = CNN_CONV2D, .out = 6, .kernel = 5, .padding = 2}, {.kind = CNN_SIGMOID}, /* 6x28x28 */
    {.kind = CNN_AVGPOOL2D, .kernel = 2},                                             /* 6x14x14 */
    {.kind = CNN_CONV2D, .out = 16, .kernel = 5}, {.kind = CNN_SIGMOID},              /* 16x10x10 */
    {.kind = CNN_AVGPOOL2D, .kernel = 2},                                             /* 16x5x5 */
    {.kind = CNN_FLATTEN},                                                            /* 400 */
    {.kind = CNN_LINEAR, .out = 120}, {.kind = CNN_SIGMOID},
    {.kind = CNN_LINEAR, .out = 84}, {.kind = CNN_SIGMOID},
    {.kind = CNN_LINEAR, .out = 10},
};

/* LeNet with max pooling and no padding: the image shrinks faster and the first linear layer is smaller. */
static const cnn_layer zoo_lenet_max[] = {
    {.kind = CNN_CONV2D, .out = 6, .kernel = 5}, {.kind = CNN_SIGMOID},  /* 6x24x24 */
    {.kind = CNN_MAXPOOL2D, .kernel = 2},                                /* 6x12x12 */
    {.kind = CNN_CONV2D, .out = 16, .kernel = 5}, {.kind = CNN_SIGMOID}, /* 16x8x8 */
    {.kind = CNN_MAXPOOL2D, .kernel = 2},                                /* 16x4x4 */
    {.kind = CNN_FLATTEN},                                               /* 256 */
    {.kind = CNN_LINEAR, .out = 120}, {.kind = CNN_SIGMOID},
    {.kind = CNN_LINEAR, .out = 84}, {.kind = CNN_SIGMOID},
    {.kind = CNN_LINEAR, .out = 10},
};

/* LeNet modernised: ReLU, max pooling and a few more channels. Train it from CNN_KAIMING_UNIFORM with batches
   of 64, a learning rate that falls from 0.03 to 0.0003, momentum 0.9 and weight decay 0.0005. */
static const cnn_layer zoo_lenet_relu[] = {
    {.kind = CNN_CONV2D, .out = 8, .kernel = 5, .padding = 2}, {.kind = CNN_RELU}, /* 8x28x28 */
    {.kind = CNN_MAXPOOL2D, .kernel = 2},                                          /* 8x14x14 */
    {.kind = CNN_CONV2D, .out = 24, .kernel = 5}, {.kind = CNN_RELU},              /* 24x10x10 */
    {.kind = CNN_MAXPOOL2D, .kernel = 2},                                          /* 24x5x5 */
    {.kind = CNN_FLATTEN},                                                         /* 600 */
    {.kind = CNN_LINEAR, .out = 120}, {.kind = CNN_RELU},
    {.kind = CNN_LINEAR, .out = 84}, {.kind = CNN_RELU},
    {.kind = CNN_LINEAR, .out = 10},
};

/* AlexNet (Krizhevsky et al. 2012) for one-channel images and ten classes, with one hidden linear layer. */
static const cnn_layer zoo_alexnet[] = {
    {.kind = CNN_CONV2D, .out = 96, .kernel = 11, .stride = 4, .padding = 1}, {.kind = CNN_RELU},
    {.kind = CNN_MAXPOOL2D, .kernel = 3, .stride = 2},                               /* 96x26x26 */
    {.kind = CNN_CONV2D, .out = 256, .kernel = 5, .padding = 2}, {.kind = CNN_RELU}, /* 256x26x26 */
    {.kind = CNN_MAXPOOL2D, .kernel = 3, .stride = 2},                               /* 256x12x12 */
    {.kind = CNN_CONV2D, .out = 384, .kernel = 3, .padding = 1}, {.kind = CNN_RELU}, /* 384x12x12 */
    {.kind = CNN_CONV2D, .out = 384, .kernel = 3, .padding = 1}, {.kind = CNN_RELU},
    {.kind = CNN_CONV2D, .out = 384, .kernel = 3, .padding = 1}, {.kind = CNN_RELU},
    {.kind = CNN_CONV2D, .out = 256, .kernel = 3, .padding = 1}, {.kind = CNN_RELU}, /* 256x12x12 */
    {.kind = CNN_MAXPOOL2D, .kernel = 3, .stride = 2},                               /* 256x5x5 */
    {.kind = CNN_FLATTEN},                                                           /* 6400 */
    {.kind = CNN_LINEAR, .out = 4096}, {.kind = CNN_RELU}, {.kind = CNN_DROPOUT, .p = 0.5f},
    {.kind = CNN_LINEAR, .out = 10},
};

/* VGG-11 (Simonyan and Zisserman 2014): blocks of 1, 1, 2, 2 and 2 convolutions, each halving the image. */
static const cnn_layer zoo_vgg11[] = {
    {.kind = CNN_CONV2D, .out = 64, .kernel = 3, .padding = 1}, {.kind = CNN_RELU},
    {.kind = CNN_MAXPOOL2D, .kernel = 2},                                            /* 64x112x112 */
    {.kind = CNN_CONV2D, .out = 128, .kernel = 3, .padding = 1}, {.kind = CNN_RELU},
    {.kind = CNN_MAXPOOL2D, .kernel = 2},                                            /* 128x56x56 */
    {.kind = CNN_CONV2D, .out = 256, .kernel = 3, .padding = 1}, {.kind = CNN_RELU},
    {.kind = CNN_CONV2D, .out = 256, .kernel = 3, .padding = 1}, {.kind = CNN_RELU},
    {.kind = CNN_MAXPOOL2D, .kernel = 2},                                            /* 256x28x28 */
    {.kind = CNN_CONV2D, .out = 512, .kernel = 3, .padding = 1}, {.kind = CNN_RELU},
    {.kind = CNN_CONV2D, .out = 512, .kernel = 3, .padding = 1}, {.kind = CNN_RELU},
    {.kind = CNN_MAXPOOL2D, .kernel = 2},                                            /* 512x14x14 */
    {.kind = CNN_CONV2D, .out = 512, .kernel = 3, .padding = 1}, {.kind = CNN_RELU},
    {.kind = CNN_CONV2D, .out = 512, .kernel = 3, .padding = 1}, {.kind = CNN_RELU},
    {.kind = CNN_MAXPOOL2D, .kernel = 2},                                            /* 512x7x7 */
    {.kind = CNN_FLATTEN},                                                           /* 25088 */
    {.kind = CNN_LINEAR, .out = 4096}, {.kind = CNN_RELU}, {.kind = CNN_DROPOUT, .p = 0.5f},
    {.kind = CNN_LINEAR, .out = 4096}, {.kind = CNN_RELU}, {.kind = CNN_DROPOUT, .p = 0.5f},
    {.kind = CNN_LINEAR, .out = 10},
};

/* Network in network (Lin et al. 2013): 1x1 convolutions are a small perceptron at every pixel, and the mean
   of a plane is the score of a class, so there is no linear layer at all. */
static const cnn_layer zoo_nin[] = {
    {.kind = CNN_CONV2D, .out = 96, .kernel = 11, .stride = 4}, {.kind = CNN_RELU},  /* 96x54x54 */
    {.kind = CNN_CONV2D, .out = 96, .kernel = 1}, {.kind = CNN_RELU},
    {.kind = CNN_CONV2D, .out = 96, .kernel = 1}, {.kind = CNN_RELU},
    {.kind = CNN_MAXPOOL2D, .kernel = 3, .stride = 2},                               /* 96x26x26 */
    {.kind = CNN_CONV2D, .out = 256, .kernel = 5, .padding = 2}, {.kind = CNN_RELU},
    {.kind = CNN_CONV2D, .out = 256, .kernel = 1}, {.kind = CNN_RELU},
    {.kind = CNN_CONV2D, .out = 256, .kernel = 1}, {.kind = CNN_RELU},
    {.kind = CNN_MAXPOOL2D, .kernel = 3, .stride = 2},                               /* 256x12x12 */
    {.kind = CNN_CONV2D, .out = 384, .kernel = 3, .padding = 1}, {.kind = CNN_RELU},
    {.kind = CNN_CONV2D, .out = 384, .kernel = 1}, {.kind = CNN_RELU},
    {.kind = CNN_CONV2D, .out = 384, .kernel = 1}, {.kind = CNN_RELU},
    {.kind = CNN_MAXPOOL2D, .kernel = 3, .stride = 2},                               /* 384x5x5 */
    {.kind = CNN_DROPOUT, .p = 0.5f},
    {.kind = CNN_CONV2D, .out = 10, .kernel = 3, .padding = 1}, {.kind = CNN_RELU},
    {.kind = CNN_CONV2D, .out = 10, .kernel = 1}, {.kind = CNN_RELU},
    {.kind = CNN_CONV2D, .out = 10, .kernel = 1}, {.kind = CNN_RELU},                /* 10x5x5 */
    {.kind = CNN_GLOBALAVGPOOL2D}, {.kind = CNN_FLATTEN},                            /* 10 */
};

/* A ConvNet for CIFAR-10. It ends in probabilities, not in the logits that training takes. */
static const cnn_layer zoo_convnet[] = {
    {.kind = CNN_CONV2D, .out = 64, .kernel = 3, .padding = 2}, {.kind = CNN_RELU},  /* 64x34x34 */
    {.kind = CNN_MAXPOOL2D, .kernel = 3, .stride = 2},                               /* 64x16x16 */
    {.kind = CNN_CONV2D, .out = 384, .kernel = 3, .padding = 2}, {.kind = CNN_RELU}, /* 384x18x18 */
    {.kind = CNN_MAXPOOL2D, .kernel = 3, .stride = 2},                               /* 384x8x8 */
    {.kind = CNN_CONV2D, .out = 384, .kernel = 3}, {.kind = CNN_RELU},               /* 384x6x6 */
    {.kind = CNN_CONV2D, .out = 256, .kernel = 3}, {.kind = CNN_RELU},               /* 256x4x4 */
    {.kind = CNN_FLATTEN},                                                           /* 4096 */
    {.kind = CNN_LINEAR, .out = 4096}, {.kind = CNN_RELU},
    {.kind = CNN_LINEAR, .out = 4096}, {.kind = CNN_RELU},
    {.kind = CNN_LINEAR, .out = 10}, {.kind = CNN_DROPOUT, .p = 0.5f}, {.kind = CNN_SOFTMAX},
};

#define ZOO_LAYERS(table) table, (int)(sizeof(table) / sizeof(table)[0])

static const zoo_entry zoo[] = {
    {"lenet", "LeNet with sigmoids and average pooling", 1, 28, 28, ZOO_LAYERS(zoo_lenet)},
    {"lenet-max", "LeNet with max pooling and no padding", 1, 28, 28, ZOO_LAYERS(zoo_lenet_max)},
    {"lenet-relu", "LeNet modernised: ReLU and max pooling", 1, 28, 28, ZOO_LAYERS(zoo_lenet_relu)},
    {"alexnet", "AlexNet for one-channel images", 1, 224, 224, ZOO_LAYERS(zoo_alexnet)},
    {"vgg11", "VGG-11 for one-channel images", 1, 224, 224, ZOO_LAYERS(zoo_vgg11)},
    {"nin", "Network in network for one-channel images", 1, 224, 224, ZOO_LAYERS(zoo_nin)},
    {"convnet", "ConvNet for CIFAR-10", 3, 32, 32, ZOO_LAYERS(zoo_convnet)},
};

/* clang-format on */

enum { zoo_count = sizeof zoo / sizeof zoo[0] };

/* NULL: no network of that name. */
static inline const zoo_entry *zoo_find(const char *name) {
    for (int i = 0; i < zoo_count; i++)
        if (strcmp(zoo[i].name, name) == 0)
            return &zoo[i];
    return NULL;
}

#endif
