/* Prints what a network of the zoo is made of: shapes, parameters, multiply-accumulates, receptive fields and
   memory, layer by layer. Everything is inferred from the table of layers; no parameter is ever allocated. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#define CNN_IMPLEMENTATION
#include "cnn.h"
#include "zoo.h"

enum { NUMBER_SIZE = 32, LAYER_SIZE = 64 };

/* 1234567 as "1,234,567". */
static char *grouped(uint64_t value, char text[NUMBER_SIZE]) {
    if (value < 1000) {
        sprintf(text, "%u", (unsigned)value);
        return text;
    }
    grouped(value / 1000, text);
    sprintf(text + strlen(text), ",%03u", (unsigned)(value % 1000));
    return text;
}

/* A layer as "conv2d 96 k11 s4 p1": output channels, kernel, stride, padding. */
static void describe(const cnn_layer *layer, const char *name, char text[LAYER_SIZE]) {
    int at = snprintf(text, LAYER_SIZE, "%s", name);
    if (layer->out)
        at += snprintf(text + at, (size_t)(LAYER_SIZE - at), " %d", layer->out);
    if (layer->kernel)
        at += snprintf(text + at, (size_t)(LAYER_SIZE - at), " k%d", layer->kernel);
    if (layer->stride)
        at += snprintf(text + at, (size_t)(LAYER_SIZE - at), " s%d", layer->stride);
    if (layer->padding)
        at += snprintf(text + at, (size_t)(LAYER_SIZE - at), " p%d", layer->padding);
    if (layer->p > 0)
        snprintf(text + at, (size_t)(LAYER_SIZE - at), " %g", (double)layer->p);
}

static void print_row(const char *number, const char *layer, const char *output, uint64_t parameters,
                      uint64_t macs, const char *field, uint64_t bytes) {
    char a[NUMBER_SIZE], b[NUMBER_SIZE], c[NUMBER_SIZE];
    printf("%3s  %-19s %11s %12s %14s %16s %13s\n", number, layer, output, grouped(parameters, a),
           grouped(macs, b), field, grouped(bytes, c));
}

static void print_layer(int number, const cnn_layer *layer, const cnn_layer_info *info) {
    char index[NUMBER_SIZE], text[LAYER_SIZE], output[LAYER_SIZE], field[LAYER_SIZE];
    snprintf(index, sizeof index, "%d", number);
    describe(layer, info->name, text);
    if (info->h == 1 && info->w == 1)
        snprintf(output, sizeof output, "%d", info->c);
    else
        snprintf(output, sizeof output, "%dx%dx%d", info->c, info->h, info->w);
    snprintf(field, sizeof field, "%" PRIu64 "x%" PRIu64, info->receptive_h, info->receptive_w);
    print_row(index, text, output, info->weights + info->biases, info->macs, field, info->bytes);
}

static void print_table(const zoo_entry *net, const cnn_layer_info *info) {
    uint64_t parameters = 0;
    uint64_t macs = 0;
    uint64_t bytes = 0;
    printf("%s: %s, input %dx%dx%d\n\n", net->name, net->title, net->c, net->h, net->w);
    printf("%3s  %-19s %11s %12s %14s %16s %13s\n", "#", "layer", "output", "parameters", "macs",
           "receptive field", "memory");
    for (int i = 0; i < net->count; i++) {
        print_layer(i, &net->layers[i], &info[i]);
        parameters += info[i].weights + info[i].biases;
        macs += info[i].macs;
        bytes += info[i].bytes;
    }
    print_row("", "total", "", parameters, macs, "", bytes);
    puts("\nk kernel, s stride, p padding; macs: multiply-accumulates of a forward pass of one example;\n"
         "memory: bytes of the output for one example and of the parameters.");
}

static int list_networks(void) {
    puts("usage: summary NAME\n\nPrints the layers of a network, their shapes and what they cost. The "
         "networks:\n");
    for (int i = 0; i < zoo_count; i++)
        printf("  %-11s %s\n", zoo[i].name, zoo[i].title);
    return 0;
}

int main(int argc, char **argv) {
    if (argc == 1 || (argc == 2 && strcmp(argv[1], "--help") == 0))
        return list_networks();
    if (argc > 2) {
        fprintf(stderr, "summary: takes one name, %d were given.\n", argc - 1);
        return 2;
    }
    const zoo_entry *net = zoo_find(argv[1]);
    if (!net) {
        fprintf(stderr, "summary: no network is called \"%s\"; summary --help lists their names.\n", argv[1]);
        return 2;
    }
    cnn_layer_info *info = malloc((size_t)net->count * sizeof *info);
    if (!info) {
        fprintf(stderr, "summary: out of memory.\n");
        return 1;
    }
    const cnn_status status = cnn_layers_infer(net->layers, net->count, net->c, net->h, net->w, info);
    if (status == CNN_OK)
        print_table(net, info);
    else
        fprintf(stderr, "summary: %s.\n", cnn_last_error());
    free(info);
    return status == CNN_OK ? 0 : 1;
}
