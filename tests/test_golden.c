/* The library against PyTorch: every operator's results and gradients, and the losses of twenty training
   steps of two networks, from tests/golden/golden.bin, on every instruction set. The file's format, and how
   data and weights of the training runs are generated, is described in tests/golden/make_golden.py. */
#include "check.h"
#include "cnn.h"

enum { MAX_ITEMS = 4096, STEPS_MAX = 32, DIGEST = 18 };

typedef struct item {
    char name[17];
    int type; /* 'c' a case begins, 'i' int32, 'f' float32, 'd' float64 */
    int n, c, h, w;
    int count;
    int *ints;
    float *floats;
    double *doubles;
} item;

static item items[MAX_ITEMS];
static int item_count;
static const char *isa_name;

/* ---- the file --------------------------------------------------------------------------------------------
 */

static uint32_t read_u32(const unsigned char *p) {
    return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

static void read_values(item *it, const unsigned char *p) {
    size_t count = (size_t)it->count;
    if (it->type == 'i')
        it->ints = (int *)malloc(count * sizeof(int));
    if (it->type == 'f')
        it->floats = (float *)malloc(count * sizeof(float));
    if (it->type == 'd')
        it->doubles = (double *)malloc(count * sizeof(double));
    for (size_t i = 0; i < count; i++) {
        uint32_t word = read_u32(p + (it->type == 'd' ? 8 * i : 4 * i));
        if (it->type == 'i')
            it->ints[i] = (int)word;
        if (it->type == 'f')
            memcpy(&it->floats[i], &word, 4);
        if (it->type == 'd') {
            uint64_t wide = word | (uint64_t)read_u32(p + 8 * i + 4) << 32;
            memcpy(&it->doubles[i], &wide, 8);
        }
    }
}

/* Parses the items; 0 if the file is cut short or has too many. */
static int parse(const unsigned char *p, size_t bytes) {
    while (bytes) {
        if (bytes < 36 || item_count == MAX_ITEMS)
            return 0;
        item *it = &items[item_count++];
        memcpy(it->name, p, 16);
        it->type = (int)read_u32(p + 16);
        it->n = (int)read_u32(p + 20);
        it->c = (int)read_u32(p + 24);
        it->h = (int)read_u32(p + 28);
        it->w = (int)read_u32(p + 32);
        it->count = it->n * it->c * it->h * it->w;
        size_t size = (size_t)it->count * (it->type == 'd' ? 8 : 4);
        p += 36;
        bytes -= 36;
        if (size > bytes)
            return 0;
        read_values(it, p);
        p += size;
        bytes -= size;
    }
    return 1;
}

static int load(const char *path) {
    FILE *file = fopen(path, "rb");
    if (!file)
        return 0;
    size_t room = 1u << 22;
    unsigned char *bytes = (unsigned char *)malloc(room);
    size_t size = fread(bytes, 1, room, file);
    int ok = size < room && parse(bytes, size);
    fclose(file);
    free(bytes);
    return ok;
}

static void unload(void) {
    for (int i = 0; i < item_count; i++) {
        free(items[i].ints);
        free(items[i].floats);
        free(items[i].doubles);
    }
}

/* The item of that name in the case that begins at start; NULL: it has none. */
static const item *find(const item *start, const char *name) {
    for (const item *it = start + 1; it < items + item_count && it->type != 'c'; it++)
        if (!strcmp(it->name, name))
            return it;
    return NULL;
}

/* ---- comparing -------------------------------------------------------------------------------------------
 */

/* A tensor on an item's values, or on a shape of it with fresh memory filled with a value. */
static cnn_tensor view(const item *it) {
    cnn_tensor t = {it->n, it->c, it->h, it->w, it->floats};
    return t;
}

static cnn_tensor filled(const item *like, float value) {
    cnn_tensor t = view(like);
    t.data = (float *)malloc((size_t)like->count * sizeof(float));
    for (int i = 0; i < like->count; i++)
        t.data[i] = value;
    return t;
}

static double magnitude(const item *it) {
    double most = 0;
    for (int i = 0; i < it->count; i++)
        if (isfinite(it->floats[i]))
            most = fmax(most, fabs((double)it->floats[i]));
    return most;
}

/* got - begin against want, each within 1e-5 of the greatest magnitude, 0.1 at least; frees got. */
static void compare(const item *start, cnn_tensor *got, const item *want, double begin) {
    double tolerance = 1e-5 * fmax(fmax(magnitude(want), begin), 0.1);
    for (int i = 0; i < want->count; i++)
        CHECK(check_close((double)got->data[i] - begin, (double)want->floats[i], tolerance, 0),
              "%s: case %d (%s): %s[%d] is %.9g, not %.9g", isa_name, (int)(start - items), start->name,
              want->name, i, (double)got->data[i] - begin, (double)want->floats[i]);
    free(got->data);
}

static void check_ok(const item *start, cnn_status status) {
    CHECK(status == CNN_OK, "%s: case %d (%s): %s", isa_name, (int)(start - items), start->name,
          cnn_last_error());
}

/* ---- operators: each takes the item with which its case begins -------------------------------------------
 */

/* dx starts as NaN, since it must be overwritten; dw and db at 0.5, since they must be added to. */
static const double begun = 0.5;

static void test_weighted(const item *start, const cnn_conv2d_options *conv) {
    const item *bias = find(start, "b");
    cnn_tensor x = view(find(start, "x"));
    cnn_tensor w = view(find(start, "w"));
    cnn_tensor b = view(bias ? bias : find(start, "w"));
    if (bias)
        b = (cnn_tensor){1, bias->count, 1, 1, bias->floats};
    cnn_tensor dy = view(find(start, "dy"));
    cnn_tensor y = filled(find(start, "y"), NAN);
    cnn_tensor dx = filled(find(start, "x"), NAN);
    cnn_tensor dw = filled(find(start, "w"), (float)begun);
    cnn_tensor db = filled(bias ? bias : find(start, "w"), (float)begun);
    if (bias) {
        db.c = bias->count;
        db.n = 1;
    }
    if (conv) {
        check_ok(start, cnn_conv2d_forward(&x, &w, bias ? &b : NULL, conv, &y));
        check_ok(start, cnn_conv2d_backward(&x, &w, &dy, conv, &dx, &dw, bias ? &db : NULL));
    } else {
        check_ok(start, cnn_linear_forward(&x, &w, bias ? &b : NULL, &y));
        check_ok(start, cnn_linear_backward(&x, &w, &dy, &dx, &dw, bias ? &db : NULL));
    }
    compare(start, &y, find(start, "y"), 0);
    compare(start, &dx, find(start, "dx"), 0);
    compare(start, &dw, find(start, "dw"), begun);
    if (bias)
        compare(start, &db, find(start, "db"), begun);
    else
        free(db.data);
}

static void test_conv2d(const item *start) {
    const int *o = find(start, "options")->ints;
    cnn_conv2d_options options = {
        o[0], o[1], o[2], o[3], o[4], o[5], o[6], o[7], o[8], (cnn_padding_mode)o[9], 0};
    test_weighted(start, &options);
}

static void test_linear(const item *start) {
    test_weighted(start, NULL);
}

static cnn_pool2d_options pool_options(const item *start) {
    const int *o = find(start, "options")->ints;
    cnn_pool2d_options options = {o[0], o[1], o[2], o[3], o[4], o[5], o[6], o[7], o[8], o[9]};
    return options;
}

static void test_maxpool2d(const item *start) {
    const cnn_pool2d_options options = pool_options(start);
    const item *want = find(start, "indices");
    cnn_tensor x = view(find(start, "x"));
    cnn_tensor dy = view(find(start, "dy"));
    cnn_tensor y = filled(find(start, "y"), NAN);
    cnn_tensor dx = filled(find(start, "x"), NAN);
    int *indices = (int *)malloc((size_t)want->count * sizeof(int));
    check_ok(start, cnn_maxpool2d_forward(&x, &options, &y, indices));
    for (int i = 0; i < want->count; i++)
        CHECK(indices[i] == want->ints[i], "%s: case %d: index %d is %d, not %d", isa_name,
              (int)(start - items), i, indices[i], want->ints[i]);
    check_ok(start, cnn_maxpool2d_backward(&dy, want->ints, &dx));
    compare(start, &y, find(start, "y"), 0);
    compare(start, &dx, find(start, "dx"), 0);
    free(indices);
}

static void test_avgpool2d(const item *start) {
    const cnn_pool2d_options options = pool_options(start);
    cnn_tensor x = view(find(start, "x"));
    cnn_tensor dy = view(find(start, "dy"));
    cnn_tensor y = filled(find(start, "y"), NAN);
    cnn_tensor dx = filled(find(start, "x"), NAN);
    check_ok(start, cnn_avgpool2d_forward(&x, &options, &y));
    check_ok(start, cnn_avgpool2d_backward(&dy, &options, &dx));
    compare(start, &y, find(start, "y"), 0);
    compare(start, &dx, find(start, "dx"), 0);
}

static void test_globalavgpool2d(const item *start) {
    cnn_tensor x = view(find(start, "x"));
    cnn_tensor dy = view(find(start, "dy"));
    cnn_tensor y = filled(find(start, "y"), NAN);
    cnn_tensor dx = filled(find(start, "x"), NAN);
    check_ok(start, cnn_globalavgpool2d_forward(&x, &y));
    check_ok(start, cnn_globalavgpool2d_backward(&dy, &dx));
    compare(start, &y, find(start, "y"), 0);
    compare(start, &dx, find(start, "dx"), 0);
}

typedef struct activation {
    const char *name;
    cnn_status (*forward)(const cnn_tensor *x, cnn_tensor *y);
    cnn_status (*backward)(const cnn_tensor *y, const cnn_tensor *dy, cnn_tensor *dx);
} activation;

static const activation activations[] = {{"sigmoid", cnn_sigmoid_forward, cnn_sigmoid_backward},
                                         {"tanh", cnn_tanh_forward, cnn_tanh_backward},
                                         {"relu", cnn_relu_forward, cnn_relu_backward},
                                         {"softmax", cnn_softmax_forward, cnn_softmax_backward}};

static void test_activation(const item *start) {
    const activation *a = activations;
    while (strcmp(a->name, start->name))
        a++;
    cnn_tensor x = view(find(start, "x"));
    cnn_tensor dy = view(find(start, "dy"));
    cnn_tensor y = filled(find(start, "y"), NAN);
    cnn_tensor dx = filled(find(start, "x"), NAN);
    check_ok(start, a->forward(&x, &y));
    check_ok(start, a->backward(&y, &dy, &dx));
    compare(start, &y, find(start, "y"), 0);
    compare(start, &dx, find(start, "dx"), 0);
}

static void check_loss(const item *start, double loss) {
    double want = find(start, "loss")->doubles[0];
    CHECK(check_close(loss, want, 1e-6, 1e-5), "%s: case %d (%s): loss %.9g, not %.9g", isa_name,
          (int)(start - items), start->name, loss, want);
}

static void test_cross_entropy(const item *start) {
    const int *labels = find(start, "labels")->ints;
    cnn_tensor x = view(find(start, "x"));
    cnn_tensor dx = filled(find(start, "x"), NAN);
    double loss = NAN;
    check_ok(start, cnn_cross_entropy_forward(&x, labels, &loss));
    check_ok(start, cnn_cross_entropy_backward(&x, labels, &dx));
    check_loss(start, loss);
    compare(start, &dx, find(start, "dx"), 0);
}

static void test_squared_error(const item *start) {
    const cnn_reduction reduction = find(start, "options")->ints[0] ? CNN_SUM : CNN_MEAN;
    cnn_tensor x = view(find(start, "x"));
    cnn_tensor target = view(find(start, "target"));
    cnn_tensor dx = filled(find(start, "x"), NAN);
    double loss = NAN;
    check_ok(start, cnn_squared_error_forward(&x, &target, reduction, &loss));
    check_ok(start, cnn_squared_error_backward(&x, &target, reduction, &dx));
    check_loss(start, loss);
    compare(start, &dx, find(start, "dx"), 0);
}

static cnn_sgd_options sgd_options(const item *start) {
    const double *o = find(start, "options")->doubles;
    cnn_sgd_options options = {(float)o[0], (float)o[1], (float)o[2], o[3] != 0};
    return options;
}

static void test_sgd(const item *start) {
    const cnn_sgd_options options = sgd_options(start);
    const item *gradients = find(start, "gradients");
    const item *after = find(start, "after");
    const item *velocity = find(start, "velocity");
    const size_t count = (size_t)gradients->c;
    cnn_tensor p = filled(find(start, "p"), 0);
    cnn_tensor v = filled(find(start, "p"), 0);
    memcpy(p.data, find(start, "p")->floats, count * sizeof(float));
    for (int step = 0; step < gradients->n; step++) {
        const float *g = gradients->floats + (size_t)step * count;
        check_ok(start, cnn_sgd_step(&options, p.data, g, velocity ? v.data : NULL, count));
        for (size_t i = 0; i < count; i++)
            CHECK(check_close((double)p.data[i], (double)after->floats[(size_t)step * count + i], 2e-6, 1e-5),
                  "%s: case %d: step %d: parameter %d is %.9g, not %.9g", isa_name, (int)(start - items),
                  step, (int)i, (double)p.data[i], (double)after->floats[(size_t)step * count + i]);
    }
    if (velocity)
        compare(start, &v, velocity, 0);
    else
        free(v.data);
    free(p.data);
}

/* ---- training --------------------------------------------------------------------------------------------
 */

static const cnn_layer lenet[] = {{.kind = CNN_CONV2D, .out = 6, .kernel = 5, .padding = 2},
                                  {.kind = CNN_SIGMOID},
                                  {.kind = CNN_AVGPOOL2D, .kernel = 2},
                                  {.kind = CNN_CONV2D, .out = 16, .kernel = 5},
                                  {.kind = CNN_SIGMOID},
                                  {.kind = CNN_AVGPOOL2D, .kernel = 2},
                                  {.kind = CNN_FLATTEN},
                                  {.kind = CNN_LINEAR, .out = 120},
                                  {.kind = CNN_SIGMOID},
                                  {.kind = CNN_LINEAR, .out = 84},
                                  {.kind = CNN_SIGMOID},
                                  {.kind = CNN_LINEAR, .out = 10}};

static const cnn_layer lenet_relu[] = {{.kind = CNN_CONV2D, .out = 6, .kernel = 5},
                                       {.kind = CNN_RELU},
                                       {.kind = CNN_MAXPOOL2D, .kernel = 2},
                                       {.kind = CNN_CONV2D, .out = 16, .kernel = 5},
                                       {.kind = CNN_RELU},
                                       {.kind = CNN_MAXPOOL2D, .kernel = 2},
                                       {.kind = CNN_FLATTEN},
                                       {.kind = CNN_LINEAR, .out = 120},
                                       {.kind = CNN_RELU},
                                       {.kind = CNN_LINEAR, .out = 84},
                                       {.kind = CNN_RELU},
                                       {.kind = CNN_LINEAR, .out = 10}};

/* A training case and what it is run with. */
typedef struct training {
    const item *start;
    cnn_net *net;
    cnn_dataset data;
    cnn_sgd_options sgd;
    int batch, steps;
    uint64_t weight_seed;
    float *velocity;
    double losses[STEPS_MAX];
} training;

static void make_data(cnn_dataset *data, uint64_t seed, int count) {
    unsigned char *bytes = (unsigned char *)malloc((size_t)count * 785);
    unsigned char *labels = bytes + (size_t)count * 784;
    uint64_t label_stream = seed;
    uint64_t pixel_stream = seed + 1;
    for (int i = 0; i < count; i++) {
        int label = (int)(check_bits(&label_stream) % 10);
        labels[i] = (unsigned char)label;
        for (int p = 0; p < 784; p++) {
            int row = p / 28 - 14 * (label / 5);
            int column = p % 28 - 5 * (label % 5) - 1;
            int inside = row >= 0 && row < 14 && column >= 0 && column < 4;
            int noise = (int)(check_bits(&pixel_stream) >> 58);
            bytes[i * 784 + p] = (unsigned char)(inside ? 255 - noise : noise);
        }
    }
    *data = (cnn_dataset){count, 1, 28, 28, 10, bytes, NULL, labels, NULL};
}

static void set_weights(training *t) {
    const float *scale = find(t->start, "scales")->floats;
    uint64_t state = t->weight_seed;
    for (int layer = 0; layer < cnn_net_layer_count(t->net); layer++) {
        const cnn_layer_info *info = cnn_net_layer_info(t->net, layer);
        cnn_tensor part[2];
        check_ok(t->start, cnn_net_layer_parameters(t->net, layer, &part[0], &part[1]));
        for (int k = 0; k < 2 && info->weights; k++, scale++)
            for (size_t i = 0; i < (k ? info->biases : info->weights); i++)
                part[k].data[i] = check_uniform(&state) * *scale;
    }
    memset(t->velocity, 0, cnn_net_parameter_count(t->net) * sizeof(float));
}

/* The digests (see make_golden.py) of each tensor of a block of parameters or gradients. */
static void check_digests(const training *t, const char *name, const float *block, double tolerance) {
    const double *want = find(t->start, name)->doubles;
    for (int layer = 0; layer < cnn_net_layer_count(t->net); layer++) {
        const cnn_layer_info *info = cnn_net_layer_info(t->net, layer);
        const size_t counts[2] = {info->weights, info->biases};
        for (int k = 0; k < 2; k++) {
            double sums[2] = {0, 0};
            size_t count = counts[k];
            if (!count)
                continue;
            for (size_t i = 0; i < count; i++) {
                sums[0] += (double)block[i];
                sums[1] += fabs((double)block[i]);
            }
            for (int i = 0; i < DIGEST; i++) {
                double got = i < 2 ? sums[i] : (double)block[(size_t)(i - 2) * count / 16];
                double scale = i < 2 ? want[1] : 4 * want[1] / (double)count;
                CHECK(check_close(got, want[i], tolerance * scale, tolerance),
                      "%s: %s: %s: layer %d, tensor %d, digest %d is %.9g, not %.9g", isa_name,
                      t->start->name, name, layer, k, i, got, want[i]);
            }
            block += count;
            want += DIGEST;
        }
    }
}

/* One batch: the loss, and gradients in the workspace; fused or by forward, loss and backward. */
static double train_batch(training *t, cnn_workspace *ws, int step, int fused) {
    double loss = 0;
    int *index = (int *)malloc((size_t)t->batch * sizeof(int));
    for (int i = 0; i < t->batch; i++)
        index[i] = step * t->batch + i;
    if (fused) {
        check_ok(t->start, cnn_train_step(t->net, ws, &t->data, index, t->batch, &loss, NULL));
        loss /= t->batch;
    } else {
        cnn_tensor x;
        cnn_tensor logits;
        int *labels = (int *)malloc((size_t)t->batch * sizeof(int));
        check_ok(t->start, cnn_tensor_alloc(&x, t->batch, 1, 28, 28));
        check_ok(t->start, cnn_tensor_alloc(&logits, t->batch, 10, 1, 1));
        check_ok(t->start, cnn_dataset_batch(&t->data, index, &x, labels));
        memset(cnn_workspace_gradients(ws), 0, cnn_net_parameter_count(t->net) * sizeof(float));
        check_ok(t->start, cnn_forward(t->net, ws, &x, &logits));
        check_ok(t->start, cnn_cross_entropy_forward(&logits, labels, &loss));
        check_ok(t->start, cnn_cross_entropy_backward(&logits, labels, &logits));
        check_ok(t->start, cnn_backward(t->net, ws, &logits, NULL));
        cnn_tensor_free(&x);
        cnn_tensor_free(&logits);
        free(labels);
    }
    free(index);
    return loss;
}

/* Trains for steps; checks losses, first gradients and, after all steps, the parameters. */
static void run_training(training *t, int steps, int threads, int fused) {
    const item *want = find(t->start, "losses");
    cnn_workspace *ws = NULL;
    set_weights(t);
    check_ok(t->start,
             cnn_workspace_create(&ws, t->net, fused ? CNN_TRAINING_STEP : CNN_TRAINING, t->batch, threads));
    if (!ws)
        return;
    for (int step = 0; step < steps; step++) {
        t->losses[step] = train_batch(t, ws, step, fused);
        CHECK(check_close(t->losses[step], want->doubles[step], 0, 1e-5),
              "%s: %s, %d threads, fused %d: loss of step %d is %.9g, not %.9g", isa_name, t->start->name,
              threads, fused, step, t->losses[step], want->doubles[step]);
        if (step == 0)
            check_digests(t, "gradients", cnn_workspace_gradients(ws), 1e-4);
        check_ok(t->start,
                 cnn_sgd_step(&t->sgd, cnn_net_parameters(t->net), cnn_workspace_gradients(ws),
                              t->sgd.momentum > 0 ? t->velocity : NULL, cnn_net_parameter_count(t->net)));
    }
    if (steps == t->steps)
        check_digests(t, "parameters", cnn_net_parameters(t->net), 1e-3);
    cnn_workspace_free(ws);
}

static void check_logits(training *t) {
    const item *want = find(t->start, "logits");
    cnn_workspace *ws = NULL;
    cnn_tensor x;
    cnn_tensor logits = filled(want, NAN);
    set_weights(t);
    check_ok(t->start, cnn_tensor_alloc(&x, t->batch, 1, 28, 28));
    check_ok(t->start, cnn_dataset_batch(&t->data, NULL, &x, NULL));
    check_ok(t->start, cnn_workspace_create(&ws, t->net, CNN_INFERENCE, t->batch, 1));
    check_ok(t->start, cnn_forward(t->net, ws, &x, &logits));
    compare(t->start, &logits, want, 0);
    cnn_workspace_free(ws);
    cnn_tensor_free(&x);
}

/* One thread and two must give the same losses and parameters, bit for bit. */
static void check_threads(training *t, int steps, int fused) {
    const size_t bytes = cnn_net_parameter_count(t->net) * sizeof(float);
    double losses[STEPS_MAX];
    float *parameters = (float *)malloc(bytes);
    run_training(t, steps, 1, fused);
    memcpy(losses, t->losses, (size_t)steps * sizeof(double));
    memcpy(parameters, cnn_net_parameters(t->net), bytes);
    run_training(t, steps, 2, fused);
    CHECK(!memcmp(losses, t->losses, (size_t)steps * sizeof(double)),
          "%s: %s, fused %d: losses differ by threads", isa_name, t->start->name, fused);
    CHECK(!memcmp(parameters, cnn_net_parameters(t->net), bytes),
          "%s: %s, fused %d: parameters differ by threads", isa_name, t->start->name, fused);
    free(parameters);
}

/* All steps, fused and not, on the best instruction set; on the others only the first three, to save time. */
static void test_training(const item *start, int best) {
    const int relu = !strcmp(start->name, "lenet-relu");
    const int *seeds = find(start, "seeds")->ints;
    training t = {.start = start, .sgd = sgd_options(start)};
    t.weight_seed = (uint64_t)seeds[1];
    t.batch = seeds[2];
    t.steps = seeds[3];
    check_ok(start, cnn_net_create(&t.net, relu ? lenet_relu : lenet, 12, 1, 28, 28));
    if (!t.net)
        return;
    t.velocity = (float *)malloc(cnn_net_parameter_count(t.net) * sizeof(float));
    make_data(&t.data, (uint64_t)seeds[0], t.batch * t.steps);
    check_logits(&t);
    if (best) {
        run_training(&t, t.steps, 2, 1);
        run_training(&t, t.steps, 1, 0);
    }
    check_threads(&t, 3, 1);
    check_threads(&t, 3, 0);
    free(t.velocity);
    free((void *)(uintptr_t)t.data.bytes);
    cnn_net_free(t.net);
}

/* ---- all of it -------------------------------------------------------------------------------------------
 */

typedef struct handler {
    const char *name;
    void (*test)(const item *start);
    int least; /* cases of it that the file must have */
} handler;

static const handler handlers[] = {{"conv2d", test_conv2d, 12},
                                   {"maxpool2d", test_maxpool2d, 12},
                                   {"avgpool2d", test_avgpool2d, 12},
                                   {"globalavgpool2d", test_globalavgpool2d, 4},
                                   {"linear", test_linear, 12},
                                   {"sigmoid", test_activation, 12},
                                   {"tanh", test_activation, 12},
                                   {"relu", test_activation, 12},
                                   {"softmax", test_activation, 12},
                                   {"cross_entropy", test_cross_entropy, 12},
                                   {"squared_error", test_squared_error, 12},
                                   {"sgd", test_sgd, 12}};

enum { HANDLERS = sizeof handlers / sizeof handlers[0] };

static void test_all(int best) {
    int cases[HANDLERS] = {0};
    int trainings = 0;
    for (int i = 0; i < item_count; i++) {
        int h = 0;
        if (items[i].type != 'c')
            continue;
        while (h < HANDLERS && strcmp(handlers[h].name, items[i].name))
            h++;
        if (h < HANDLERS) {
            handlers[h].test(&items[i]);
            cases[h]++;
        } else {
            test_training(&items[i], best);
            trainings++;
        }
    }
    for (int h = 0; h < HANDLERS; h++)
        CHECK(cases[h] >= handlers[h].least, "%d cases of %s", cases[h], handlers[h].name);
    CHECK(trainings == 2, "%d training runs", trainings);
}

int main(void) {
    static const char *const names[] = {"avx512", "avx2", "sse2", "neon", "vector", "scalar"};
    const char *best = cnn_instruction_set();
    if (!load("tests/golden/golden.bin")) {
        printf("tests/golden/golden.bin cannot be read, or is damaged\n");
        return 1;
    }
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        isa_name = names[i];
        if (check_select_isa(names[i]))
            test_all(!strcmp(names[i], best));
        else
            printf("skipped: %s is not in this machine or build\n", names[i]);
    }
    unload();
    return check_done();
}
