/* Bad input: for each a status, a sentence that names the place and the values, and outputs untouched.
   Failing allocations, memory handed in by the caller, and that nothing allocates within a step. */
#include "check.h"

#include "cnn.h"
#include <ctype.h>
#include <limits.h>

#define COUNT(array) ((int)(sizeof(array) / sizeof(array)[0]))

/* Sets of statuses, for what an interface may answer in more than one way. */
enum {
    ARGUMENT = 1 << CNN_ERR_ARGUMENT,
    SHAPE = 1 << CNN_ERR_SHAPE,
    NOMEM = 1 << CNN_ERR_NOMEM,
    FORMAT = 1 << CNN_ERR_FORMAT,
    DIVERGED = 1 << CNN_ERR_DIVERGED,
    MISFIT = ARGUMENT | SHAPE
};

/* Whether the sentence holds the word; a number not within another number or a name (7 is in 7x9, 2 not in
 * conv2d). */
static int holds(const char *sentence, const char *word) {
    const int number = isdigit((unsigned char)word[word[0] == '-']);
    for (const char *p = strstr(sentence, word); p; p = strstr(p + 1, word)) {
        const int left = p > sentence ? (unsigned char)p[-1] : ' ';
        const int right = (unsigned char)p[strlen(word)];
        if (!number || !((isalnum(left) && left != 'x') || (isalnum(right) && right != 'x')))
            return 1;
    }
    return 0;
}

/* The error has one of the statuses, and its sentence holds every word of text (words end at spaces). */
static void check_error(int line, const char *what, cnn_status got, int wanted, const char *text) {
    CHECK(got != CNN_OK && (wanted >> got & 1), "line %d: %s: status %s (%s)", line, what,
          cnn_status_name(got), cnn_last_error());
    while (got != CNN_OK && *text) {
        char word[64];
        size_t length = strcspn(text, " ");
        snprintf(word, sizeof word, "%.*s", (int)length, text);
        CHECK(holds(cnn_last_error(), word), "line %d: %s: no '%s' in '%s'", line, what, word,
              cnn_last_error());
        text += length + (text[length] == ' ');
    }
}

/* ---- operators -------------------------------------------------------------------------------------------
 */

enum role { X, W, B, Y, DY, DX, DW, DB, ROLES };

/* Each role's tensor lies in a slot of its own, with room on both sides to shift it into overlaps. */
enum { MARGIN = 1024, SLOT = 3 * MARGIN };

typedef struct fixture {
    cnn_tensor t[ROLES];
    int null; /* bit set: that role is passed as NULL */
    cnn_conv2d_options conv;
    cnn_pool2d_options pool;
    cnn_conv2d_options *conv_at; /* what is passed */
    cnn_pool2d_options *pool_at;
    int *ints; /* labels or indices */
    double *loss_at;
    float p;
    cnn_reduction reduction;
    double loss;
    int int_memory[MARGIN];
    float memory[ROLES][SLOT];
} fixture;

static fixture before;
static fixture now;

static cnn_tensor *at(fixture *f, int role) {
    return f->null >> role & 1 ? NULL : &f->t[role];
}

static cnn_status corr2d_forward(fixture *f) {
    return cnn_corr2d_forward(at(f, X), at(f, W), at(f, Y));
}
static cnn_status corr2d_backward(fixture *f) {
    return cnn_corr2d_backward(at(f, X), at(f, W), at(f, DY), at(f, DX), at(f, DW));
}
static cnn_status convolve2d_forward(fixture *f) {
    return cnn_convolve2d_forward(at(f, X), at(f, W), at(f, Y));
}
static cnn_status convolve2d_backward(fixture *f) {
    return cnn_convolve2d_backward(at(f, X), at(f, W), at(f, DY), at(f, DX), at(f, DW));
}
static cnn_status conv2d_forward(fixture *f) {
    return cnn_conv2d_forward(at(f, X), at(f, W), at(f, B), f->conv_at, at(f, Y));
}
static cnn_status conv2d_backward(fixture *f) {
    return cnn_conv2d_backward(at(f, X), at(f, W), at(f, DY), f->conv_at, at(f, DX), at(f, DW), at(f, DB));
}
static cnn_status conv2d_shape(fixture *f) {
    return cnn_conv2d_shape(at(f, X), at(f, W), f->conv_at, at(f, Y));
}
static cnn_status maxpool2d_forward(fixture *f) {
    return cnn_maxpool2d_forward(at(f, X), f->pool_at, at(f, Y), f->ints);
}
static cnn_status maxpool2d_backward(fixture *f) {
    return cnn_maxpool2d_backward(at(f, DY), f->ints, at(f, DX));
}
static cnn_status avgpool2d_forward(fixture *f) {
    return cnn_avgpool2d_forward(at(f, X), f->pool_at, at(f, Y));
}
static cnn_status avgpool2d_backward(fixture *f) {
    return cnn_avgpool2d_backward(at(f, DY), f->pool_at, at(f, DX));
}
static cnn_status pool2d_shape(fixture *f) {
    return cnn_pool2d_shape(at(f, X), f->pool_at, 1, at(f, Y));
}
static cnn_status globalavgpool2d_forward(fixture *f) {
    return cnn_globalavgpool2d_forward(at(f, X), at(f, Y));
}
static cnn_status globalavgpool2d_backward(fixture *f) {
    return cnn_globalavgpool2d_backward(at(f, DY), at(f, DX));
}
static cnn_status linear_forward(fixture *f) {
    return cnn_linear_forward(at(f, X), at(f, W), at(f, B), at(f, Y));
}
static cnn_status linear_backward(fixture *f) {
    return cnn_linear_backward(at(f, X), at(f, W), at(f, DY), at(f, DX), at(f, DW), at(f, DB));
}
static cnn_status sigmoid_forward(fixture *f) {
    return cnn_sigmoid_forward(at(f, X), at(f, Y));
}
static cnn_status sigmoid_backward(fixture *f) {
    return cnn_sigmoid_backward(at(f, Y), at(f, DY), at(f, DX));
}
static cnn_status tanh_forward(fixture *f) {
    return cnn_tanh_forward(at(f, X), at(f, Y));
}
static cnn_status tanh_backward(fixture *f) {
    return cnn_tanh_backward(at(f, Y), at(f, DY), at(f, DX));
}
static cnn_status relu_forward(fixture *f) {
    return cnn_relu_forward(at(f, X), at(f, Y));
}
static cnn_status relu_backward(fixture *f) {
    return cnn_relu_backward(at(f, Y), at(f, DY), at(f, DX));
}
static cnn_status softmax_forward(fixture *f) {
    return cnn_softmax_forward(at(f, X), at(f, Y));
}
static cnn_status softmax_backward(fixture *f) {
    return cnn_softmax_backward(at(f, Y), at(f, DY), at(f, DX));
}
static cnn_status dropout_forward(fixture *f) {
    return cnn_dropout_forward(at(f, X), f->p, 1, 7, at(f, Y));
}
static cnn_status dropout_backward(fixture *f) {
    return cnn_dropout_backward(at(f, DY), f->p, 1, 7, at(f, DX));
}
static cnn_status flatten_forward(fixture *f) {
    return cnn_flatten_forward(at(f, X), at(f, Y));
}
static cnn_status flatten_backward(fixture *f) {
    return cnn_flatten_backward(at(f, DY), at(f, DX));
}
static cnn_status cross_entropy_forward(fixture *f) {
    return cnn_cross_entropy_forward(at(f, X), f->ints, f->loss_at);
}
static cnn_status cross_entropy_backward(fixture *f) {
    return cnn_cross_entropy_backward(at(f, X), f->ints, at(f, DX));
}
static cnn_status squared_error_forward(fixture *f) {
    return cnn_squared_error_forward(at(f, Y), at(f, X), f->reduction, f->loss_at);
}
static cnn_status squared_error_backward(fixture *f) {
    return cnn_squared_error_backward(at(f, Y), at(f, X), f->reduction, at(f, DY));
}
static cnn_status tensor_copy(fixture *f) {
    return cnn_tensor_copy(at(f, Y), at(f, X));
}
static cnn_status tensor_fill(fixture *f) {
    return cnn_tensor_fill(at(f, Y), 1);
}

enum { IN = 0, OUT = 1, OPTIONAL = 2, NO_DATA = 4 };
enum { OPERANDS = 6 };

typedef struct operand {
    int role, flags;
    int shape[4];
    int in_place; /* bit set: this result may share that role's memory */
    char free[5]; /* those of "nchw" that may grow without an error */
} operand;

/* The tensors of an operation are written as role, marks and shape. Marks: ! a result, ? may be NULL, # sizes
   only,
   @role may be in place of that one, +nchw those sizes may grow. */
typedef struct operation {
    const char *name;
    cnn_status (*call)(fixture *f);
    const char *tensors;
    int operands;
    operand operand[OPERANDS];
} operation;

#define OPERATION(name, tensors)                                                                             \
    {                                                                                                        \
        "cnn_" #name, name, tensors, 0, {                                                                    \
            { 0, 0, {0}, 0, "" }                                                                             \
        }                                                                                                    \
    }

/* clang-format off */
static operation operations[] = {
    OPERATION(corr2d_forward, "x 1 1 7 9, w 1 1 3 2, y! 1 1 5 8"),
    OPERATION(corr2d_backward, "x 1 1 7 9, w 1 1 3 2, dy 1 1 5 8, dx!? 1 1 7 9, dw!? 1 1 3 2"),
    OPERATION(convolve2d_forward, "x 1 1 7 9, w 1 1 3 2, y! 1 1 5 8"),
    OPERATION(convolve2d_backward, "x 1 1 7 9, w 1 1 3 2, dy 1 1 5 8, dx!? 1 1 7 9, dw!? 1 1 3 2"),
    OPERATION(conv2d_forward, "x 2 4 7 9, w 6 2 3 2, b? 1 6 1 1, y! 2 6 5 8"),
    OPERATION(conv2d_backward,
              "x 2 4 7 9, w 6 2 3 2, dy 2 6 5 8, dx!? 2 4 7 9, dw!? 6 2 3 2, db!? 1 6 1 1"),
    OPERATION(conv2d_shape, "x#+nhw 2 4 7 9, w#+nhw 6 2 3 2, y!#+nchw 0 0 0 0"),
    OPERATION(maxpool2d_forward, "x 2 3 7 9, y! 2 3 5 8"),
    OPERATION(maxpool2d_backward, "dy+hw 2 3 5 8, dx!+hw 2 3 7 9"),
    OPERATION(avgpool2d_forward, "x 2 3 7 9, y! 2 3 5 8"),
    OPERATION(avgpool2d_backward, "dy 2 3 5 8, dx! 2 3 7 9"),
    OPERATION(pool2d_shape, "x#+nchw 2 3 7 9, y!#+nchw 0 0 0 0"),
    OPERATION(globalavgpool2d_forward, "x+hw 2 3 7 9, y! 2 3 1 1"),
    OPERATION(globalavgpool2d_backward, "dy 2 3 1 1, dx!+hw 2 3 7 9"),
    OPERATION(linear_forward, "x 3 2 4 5, w 7 40 1 1, b? 1 7 1 1, y! 3 7 1 1"),
    OPERATION(linear_backward,
              "x 3 2 4 5, w 7 40 1 1, dy 3 7 1 1, dx!? 3 2 4 5, dw!? 7 40 1 1, db!? 1 7 1 1"),
    OPERATION(sigmoid_forward, "x 2 3 4 5, y!@x 2 3 4 5"),
    OPERATION(sigmoid_backward, "y 2 3 4 5, dy 2 3 4 5, dx!@dy@y 2 3 4 5"),
    OPERATION(tanh_forward, "x 2 3 4 5, y!@x 2 3 4 5"),
    OPERATION(tanh_backward, "y 2 3 4 5, dy 2 3 4 5, dx!@dy@y 2 3 4 5"),
    OPERATION(relu_forward, "x 2 3 4 5, y!@x 2 3 4 5"),
    OPERATION(relu_backward, "y 2 3 4 5, dy 2 3 4 5, dx!@dy@y 2 3 4 5"),
    OPERATION(softmax_forward, "x 2 3 4 5, y!@x 2 3 4 5"),
    OPERATION(softmax_backward, "y 2 3 4 5, dy 2 3 4 5, dx!@dy@y 2 3 4 5"),
    OPERATION(dropout_forward, "x 2 3 4 5, y!@x 2 3 4 5"),
    OPERATION(dropout_backward, "dy 2 3 4 5, dx!@dy 2 3 4 5"),
    OPERATION(flatten_forward, "x 2 3 4 5, y!@x 2 60 1 1"),
    OPERATION(flatten_backward, "dy 2 60 1 1, dx!@dy 2 3 4 5"),
    OPERATION(cross_entropy_forward, "x+nc 5 7 1 1"),
    OPERATION(cross_entropy_backward, "x 5 7 1 1, dx!@x 5 7 1 1"),
    OPERATION(squared_error_forward, "y 2 3 4 5, x 2 3 4 5"),
    OPERATION(squared_error_backward, "y 2 3 4 5, x 2 3 4 5, dy!@y@x 2 3 4 5"),
    OPERATION(tensor_copy, "x 2 3 4 5, y!@x 2 3 4 5"),
    OPERATION(tensor_fill, "y!+nchw 2 3 4 5")};
/* clang-format on */

static int role_named(const char *text) {
    static const char *const names[ROLES] = {"x", "w", "b", "y", "dy", "dx", "dw", "db"};
    int role = 0;
    while (strncmp(text, names[role], strlen(names[role])))
        role++;
    return role;
}

/* Reads one tensor of an operation; returns what follows its marks. */
static const char *read_operand(operand *o, const char *text) {
    const char *end = strchr(text, ' ');
    o->role = role_named(text);
    for (const char *p = text; p < end; p++) {
        o->flags |= *p == '!' ? OUT : *p == '?' ? OPTIONAL : *p == '#' ? NO_DATA : IN;
        if (*p == '@')
            o->in_place |= 1 << role_named(p + 1);
        if (*p == '+')
            memcpy(o->free, p + 1, (size_t)(end - p - 1));
    }
    return end;
}

static void read_operations(void) {
    for (int i = 0; i < COUNT(operations); i++) {
        operation *op = &operations[i];
        const char *p = op->tensors;
        while (p) {
            operand *o = &op->operand[op->operands++];
            char *end = (char *)(uintptr_t)read_operand(o, p);
            for (int d = 0; d < 4; d++)
                o->shape[d] = (int)strtol(end, &end, 10);
            p = *end ? end + 2 : NULL;
        }
    }
}

/* A call of op that is right: tensors in their slots, filled with noise; labels and indices all 0. */
static void set_up(const operation *op) {
    uint64_t state = check_seed();
    memset(&now, 0, sizeof now);
    for (int role = 0; role < ROLES; role++)
        for (int i = 0; i < SLOT; i++)
            now.memory[role][i] = check_uniform(&state);
    for (int i = 0; i < op->operands; i++) {
        const operand *o = &op->operand[i];
        cnn_tensor t = {o->shape[0], o->shape[1], o->shape[2], o->shape[3], now.memory[o->role] + MARGIN};
        now.t[o->role] = t;
    }
    now.conv.groups = 2;
    now.pool.kernel_h = 3;
    now.pool.kernel_w = 2;
    now.pool.stride_h = now.pool.stride_w = 1;
    now.p = 0.25f;
    now.conv_at = &now.conv;
    now.pool_at = &now.pool;
    now.ints = now.int_memory;
    now.loss_at = &now.loss;
}

static int *size_of(cnn_tensor *t, int dimension) {
    int *sizes[4] = {&t->n, &t->c, &t->h, &t->w};
    return sizes[dimension];
}

/* The call now fails as wanted, leaves all as it was, and its sentence names the function. */
static void refused(int line, const operation *op, int wanted, const char *text) {
    memcpy(&before, &now, sizeof now);
    cnn_status got = op->call(&now);
    check_error(line, op->name, got, wanted, text);
    if (got != CNN_OK)
        CHECK(strstr(cnn_last_error(), op->name), "line %d: no '%s' in '%s'", line, op->name,
              cnn_last_error());
    CHECK(!memcmp(&before, &now, sizeof now), "line %d: %s: something was written", line, op->name);
}

static void accepted(int line, const operation *op) {
    cnn_status got = op->call(&now);
    CHECK(got == CNN_OK, "line %d: %s: %s", line, op->name, cnn_last_error());
}

#define REFUSED(op, wanted, text) refused(__LINE__, op, wanted, text)
#define ACCEPTED(op)              accepted(__LINE__, op)

static void test_nulls(const operation *op) {
    for (int i = 0; i < op->operands; i++) {
        const operand *o = &op->operand[i];
        set_up(op);
        now.null = 1 << o->role;
        if (o->flags & OPTIONAL)
            ACCEPTED(op);
        else
            REFUSED(op, ARGUMENT, "NULL");
        if (o->flags & (OPTIONAL | NO_DATA))
            continue;
        set_up(op);
        now.t[o->role].data = NULL;
        REFUSED(op, ARGUMENT, "NULL");
    }
}

/* The sentence holds at least two numbers after the function's name. */
static void check_numbers(const operation *op) {
    const char *p = strstr(cnn_last_error(), op->name);
    int numbers = 0;
    for (p = p ? p + strlen(op->name) : ""; *p; p++)
        numbers += p[0] >= '0' && p[0] <= '9' && !(p[1] >= '0' && p[1] <= '9');
    CHECK(numbers >= 2, "%s: not two numbers in '%s'", op->name, cnn_last_error());
}

static void test_sizes(const operation *op) {
    static const int below[] = {0, -1, INT_MIN};
    for (int i = 0; i < op->operands; i++) {
        const operand *o = &op->operand[i];
        for (int d = 0; d < 4; d++) {
            for (int k = 0; k < COUNT(below) && !(o->flags & OUT && o->flags & NO_DATA); k++) {
                char text[16];
                set_up(op);
                *size_of(&now.t[o->role], d) = below[k];
                snprintf(text, sizeof text, "%d", below[k]);
                REFUSED(op, SHAPE, text);
            }
            if (strchr(o->free, "nchw"[d]))
                continue;
            set_up(op);
            *size_of(&now.t[o->role], d) += 1;
            REFUSED(op, SHAPE, "");
            check_numbers(op);
        }
    }
}

/* Sizes whose product, or its bytes, do not fit size_t (65536^4 is 2^64). */
static void test_huge(const operation *op) {
    static const int huge[] = {65536, INT_MAX};
    for (int k = 0; k < COUNT(huge); k++) {
        set_up(op);
        for (int i = 0; i < op->operands; i++) {
            const operand *o = &op->operand[i];
            cnn_tensor *t = &now.t[o->role];
            if (!(o->flags & OUT && o->flags & NO_DATA))
                t->n = t->c = t->h = t->w = huge[k];
        }
        REFUSED(op, SHAPE, "");
    }
}

/* Shifts result a over b, so that one element, all but one, or all are shared; then just beside it. */
static void test_overlap(const operation *op, const operand *a, const operand *b) {
    const ptrdiff_t na = (ptrdiff_t)a->shape[0] * a->shape[1] * a->shape[2] * a->shape[3];
    const ptrdiff_t nb = (ptrdiff_t)b->shape[0] * b->shape[1] * b->shape[2] * b->shape[3];
    const ptrdiff_t shared[] = {1, nb - 1, -1, 1 - na, 0};
    const ptrdiff_t apart[] = {nb, -na};
    const int in_place = (a->in_place >> b->role | b->in_place >> a->role) & 1;
    for (int k = 0; k < COUNT(shared); k++) {
        set_up(op);
        now.t[a->role].data = now.t[b->role].data + shared[k];
        if (in_place && !shared[k])
            ACCEPTED(op);
        else
            REFUSED(op, ARGUMENT, "overlap");
    }
    for (int k = 0; k < COUNT(apart); k++) {
        set_up(op);
        now.t[a->role].data = now.t[b->role].data + apart[k];
        ACCEPTED(op);
    }
}

static void test_overlaps(const operation *op) {
    for (int i = 0; i < op->operands; i++)
        for (int j = 0; j < op->operands; j++)
            if (i != j && op->operand[i].flags & OUT && !(op->operand[i].flags & NO_DATA))
                test_overlap(op, &op->operand[i], &op->operand[j]);
}

/* In place gives what it gives elsewhere. */
static void test_in_place(const operation *op) {
    static float want[MARGIN];
    const operand *o = &op->operand[op->operands - 1];
    const size_t bytes =
        sizeof(float) * (size_t)o->shape[0] * (size_t)o->shape[1] * (size_t)o->shape[2] * (size_t)o->shape[3];
    for (int role = 0; role < ROLES; role++) {
        if (!(o->in_place >> role & 1))
            continue;
        set_up(op);
        ACCEPTED(op);
        memcpy(want, now.t[o->role].data, bytes);
        set_up(op);
        now.t[o->role].data = now.t[role].data;
        ACCEPTED(op);
        CHECK(!memcmp(want, now.t[o->role].data, bytes), "%s: in place it gives something else", op->name);
    }
}

static void test_operations(void) {
    for (int i = 0; i < COUNT(operations); i++) {
        const operation *op = &operations[i];
        set_up(op);
        ACCEPTED(op);
        test_nulls(op);
        test_sizes(op);
        test_huge(op);
        test_overlaps(op);
        test_in_place(op);
    }
}

/* ---- options of operators --------------------------------------------------------------------------------
 */

#define CONV(field) offsetof(fixture, conv.field)
#define POOL(field) offsetof(fixture, pool.field)
#define NONE        ((size_t)-1)

/* For every operation whose name begins with name: one or two int fields set to bad values. */
typedef struct bad_option {
    const char *name;
    size_t field;
    int value;
    size_t field2;
    int value2;
    int wanted;
    const char *text;
} bad_option;

/* clang-format off */
static const bad_option bad_options[] = {
    {"cnn_conv2d", CONV(stride_h), -1, NONE, 0, ARGUMENT, "stride -1"},
    {"cnn_conv2d", CONV(stride_w), -3, NONE, 0, ARGUMENT, "stride -3"},
    {"cnn_conv2d", CONV(stride_w), INT_MIN, NONE, 0, ARGUMENT, "stride"},
    {"cnn_conv2d", CONV(pad_top), -1, NONE, 0, ARGUMENT, "pad -1"},
    {"cnn_conv2d", CONV(pad_bottom), -1, NONE, 0, ARGUMENT, "pad -1"},
    {"cnn_conv2d", CONV(pad_left), -1, NONE, 0, ARGUMENT, "pad -1"},
    {"cnn_conv2d", CONV(pad_right), -1, NONE, 0, ARGUMENT, "pad -1"},
    {"cnn_conv2d", CONV(dilation_h), -1, NONE, 0, ARGUMENT, "dilation -1"},
    {"cnn_conv2d", CONV(dilation_w), -2, NONE, 0, ARGUMENT, "dilation -2"},
    {"cnn_conv2d", CONV(groups), -1, NONE, 0, ARGUMENT, "groups -1"},
    {"cnn_conv2d", CONV(groups), 3, NONE, 0, MISFIT, "groups 3 4"},
    {"cnn_conv2d", CONV(groups), 4, NONE, 0, MISFIT, "4"},
    {"cnn_conv2d", CONV(groups), 0, NONE, 0, MISFIT, "2 4"},
    {"cnn_conv2d", CONV(groups), INT_MAX, NONE, 0, MISFIT, "groups 2147483647"},
    {"cnn_conv2d", CONV(padding_mode), 4, NONE, 0, ARGUMENT, "padding 4"},
    {"cnn_conv2d", CONV(padding_mode), -1, NONE, 0, ARGUMENT, "padding"},
    {"cnn_conv2d", CONV(padding_mode), CNN_PAD_REFLECT, CONV(pad_left), 9, MISFIT, "reflect 9"},
    {"cnn_conv2d", CONV(padding_mode), CNN_PAD_REFLECT, CONV(pad_right), 10, MISFIT, "reflect 9 10"},
    {"cnn_conv2d", CONV(padding_mode), CNN_PAD_REFLECT, CONV(pad_top), 7, MISFIT, "reflect 7"},
    {"cnn_conv2d", CONV(padding_mode), CNN_PAD_REFLECT, CONV(pad_bottom), 8, MISFIT, "reflect 8 7"},
    {"cnn_conv2d", CONV(padding_mode), CNN_PAD_CIRCULAR, CONV(pad_left), 10, MISFIT, "circular 10 9"},
    {"cnn_conv2d", CONV(padding_mode), CNN_PAD_CIRCULAR, CONV(pad_right), 10, MISFIT, "circular 10 9"},
    {"cnn_conv2d", CONV(padding_mode), CNN_PAD_CIRCULAR, CONV(pad_top), 8, MISFIT, "circular 8 7"},
    {"cnn_conv2d", CONV(padding_mode), CNN_PAD_CIRCULAR, CONV(pad_bottom), 8, MISFIT, "circular 8 7"},
    {"cnn_conv2d", CONV(pad_top), INT_MAX, NONE, 0, MISFIT, ""},
    {"cnn_conv2d", CONV(pad_left), INT_MAX, CONV(pad_right), INT_MAX, MISFIT, ""},
    {"cnn_conv2d", CONV(dilation_h), INT_MAX, NONE, 0, MISFIT, "7"},
    {"cnn_conv2d", CONV(dilation_w), 9, NONE, 0, MISFIT, "9"},
    {"cnn_maxpool2d_forward", POOL(kernel_h), 0, NONE, 0, ARGUMENT, "0"},
    {"cnn_avgpool2d", POOL(kernel_w), 0, NONE, 0, ARGUMENT, "0"},
    {"cnn_pool2d", POOL(kernel_h), 0, NONE, 0, ARGUMENT, "0"},
    {"cnn_maxpool2d_forward", POOL(kernel_h), -2, NONE, 0, ARGUMENT, "-2"},
    {"cnn_avgpool2d", POOL(kernel_w), -2, NONE, 0, ARGUMENT, "-2"},
    {"cnn_pool2d", POOL(kernel_w), -2, NONE, 0, ARGUMENT, "-2"},
    {"cnn_maxpool2d_forward", POOL(kernel_h), 8, NONE, 0, MISFIT, "8 7"},
    {"cnn_avgpool2d", POOL(kernel_h), 8, NONE, 0, MISFIT, "8 7"},
    {"cnn_pool2d", POOL(kernel_w), 10, NONE, 0, MISFIT, "10 9"},
    {"cnn_maxpool2d_forward", POOL(stride_h), -1, NONE, 0, ARGUMENT, "stride -1"},
    {"cnn_avgpool2d", POOL(stride_w), -1, NONE, 0, ARGUMENT, "stride -1"},
    {"cnn_pool2d", POOL(stride_w), -1, NONE, 0, ARGUMENT, "stride -1"},
    {"cnn_maxpool2d_forward", POOL(pad_h), -1, NONE, 0, ARGUMENT, "pad -1"},
    {"cnn_maxpool2d_forward", POOL(pad_h), 2, NONE, 0, ARGUMENT, "pad 2 3"},
    {"cnn_avgpool2d", POOL(pad_w), 2, NONE, 0, ARGUMENT, "pad 2"},
    {"cnn_avgpool2d", POOL(pad_w), -1, NONE, 0, ARGUMENT, "pad -1"},
    {"cnn_pool2d", POOL(pad_h), 2, NONE, 0, ARGUMENT, "pad 2 3"},
    {"cnn_pool2d", POOL(pad_w), INT_MAX, NONE, 0, ARGUMENT, "pad 2147483647"},
    {"cnn_maxpool2d_forward", POOL(dilation_h), -1, NONE, 0, ARGUMENT, "dilation -1"},
    {"cnn_maxpool2d_forward", POOL(dilation_h), 4, NONE, 0, MISFIT, "7"},
    {"cnn_pool2d", POOL(dilation_w), INT_MAX, NONE, 0, MISFIT, "9"},
    {"cnn_avgpool2d", POOL(dilation_w), 2, NONE, 0, MISFIT, "dilation 2"},
    {"cnn_avgpool2d", POOL(dilation_h), -1, NONE, 0, MISFIT, "dilation -1"},
    {"cnn_squared_error", offsetof(fixture, reduction), 2, NONE, 0, ARGUMENT, "reduction 2"},
    {"cnn_squared_error", offsetof(fixture, reduction), -1, NONE, 0, ARGUMENT, "reduction"},
    {"cnn_cross_entropy", offsetof(fixture, int_memory[3]), 7, NONE, 0, FORMAT, "label 3 7"},
    {"cnn_cross_entropy", offsetof(fixture, int_memory[4]), -1, NONE, 0, FORMAT, "label 4 -1"},
    {"cnn_cross_entropy", offsetof(fixture, int_memory[0]), INT_MIN, NONE, 0, FORMAT, "label 0"},
    {"cnn_maxpool2d_backward", offsetof(fixture, int_memory[5]), 63, NONE, 0, ARGUMENT | FORMAT, "5 63"},
    {"cnn_maxpool2d_backward", offsetof(fixture, int_memory[239]), -2, NONE, 0, ARGUMENT | FORMAT, "239 -2"}};
/* clang-format on */

static void set_int(size_t field, int value) {
    if (field != NONE)
        memcpy((char *)&now + field, &value, sizeof value);
}

static void test_bad_options(void) {
    for (int k = 0; k < COUNT(bad_options); k++) {
        const bad_option *bad = &bad_options[k];
        int hits = 0;
        for (int i = 0; i < COUNT(operations); i++) {
            if (strncmp(operations[i].name, bad->name, strlen(bad->name)))
                continue;
            set_up(&operations[i]);
            set_int(bad->field, bad->value);
            set_int(bad->field2, bad->value2);
            refused(k, &operations[i], bad->wanted, bad->text);
            hits++;
        }
        CHECK(hits, "no operation is called %s", bad->name);
    }
}

static const operation *operation_named(const char *name) {
    const operation *op = operations;
    while (strcmp(op->name, name))
        op++;
    return op;
}

static void test_dropout_p(void) {
    static const float bad[] = {-0.1f, 1, 2, -INFINITY, INFINITY, NAN};
    static const char *const names[] = {"cnn_dropout_forward", "cnn_dropout_backward"};
    for (int k = 0; k < COUNT(bad) * COUNT(names); k++) {
        const operation *op = operation_named(names[k % 2]);
        set_up(op);
        now.p = bad[k / 2];
        REFUSED(op, ARGUMENT, "p");
    }
}

/* NULL for what is not a tensor, and integer results that lie in a tensor. */
static void test_other_operands(void) {
    const operation *maxpool = operation_named("cnn_maxpool2d_forward");
    const operation *maxpool_backward = operation_named("cnn_maxpool2d_backward");
    set_up(operation_named("cnn_cross_entropy_forward"));
    now.ints = NULL;
    REFUSED(operation_named("cnn_cross_entropy_forward"), ARGUMENT, "labels");
    REFUSED(operation_named("cnn_cross_entropy_backward"), ARGUMENT, "NULL");
    set_up(operation_named("cnn_cross_entropy_forward"));
    now.loss_at = NULL;
    REFUSED(operation_named("cnn_cross_entropy_forward"), ARGUMENT, "loss");
    set_up(operation_named("cnn_squared_error_forward"));
    now.loss_at = NULL;
    REFUSED(operation_named("cnn_squared_error_forward"), ARGUMENT, "loss");
    set_up(maxpool);
    now.ints = NULL;
    ACCEPTED(maxpool);
    now.pool_at = NULL;
    REFUSED(maxpool, ARGUMENT, "");
    now.ints = (int *)(void *)now.t[X].data;
    now.pool_at = &now.pool;
    REFUSED(maxpool, ARGUMENT, "overlap");
    now.ints = (int *)(void *)(now.t[Y].data + 239);
    REFUSED(maxpool, ARGUMENT, "overlap");
    set_up(maxpool_backward);
    now.ints = NULL;
    REFUSED(maxpool_backward, ARGUMENT, "indices");
    now.ints = (int *)(void *)now.t[DX].data;
    REFUSED(maxpool_backward, ARGUMENT, "overlap");
    set_up(operation_named("cnn_avgpool2d_forward"));
    now.pool_at = NULL;
    REFUSED(operation_named("cnn_avgpool2d_forward"), ARGUMENT, "");
    set_up(operation_named("cnn_avgpool2d_backward"));
    now.pool_at = NULL;
    REFUSED(operation_named("cnn_avgpool2d_backward"), ARGUMENT, "");
    set_up(operation_named("cnn_pool2d_shape"));
    now.pool_at = NULL;
    REFUSED(operation_named("cnn_pool2d_shape"), ARGUMENT, "");
    set_up(operation_named("cnn_linear_forward"));
    now.null = 1 << X | 1 << W | 1 << B | 1 << Y;
    REFUSED(operation_named("cnn_linear_forward"), ARGUMENT, "NULL");
}

/* ---- everything that is not an operator ------------------------------------------------------------------
 */

/* What must not change while calls are refused. */
typedef struct watched {
    void *memory;
    size_t bytes;
    void *copy;
} watched;

static watched watches[16];
static int watch_count;

static void watch(void *memory, size_t bytes) {
    watched *w = &watches[watch_count++];
    w->memory = memory;
    w->bytes = bytes;
    w->copy = malloc(bytes);
    memcpy(w->copy, memory, bytes);
}

static void unwatch(void) {
    while (watch_count)
        free(watches[--watch_count].copy);
}

static void rejected(int line, const char *call, int wanted, const char *text, cnn_status got) {
    check_error(line, call, got, wanted, text);
    for (int i = 0; i < watch_count; i++) {
        CHECK(!memcmp(watches[i].memory, watches[i].copy, watches[i].bytes),
              "line %d: %s: wrote to region %d", line, call, i);
        memcpy(watches[i].memory, watches[i].copy, watches[i].bytes);
    }
}

#define REJECTED(wanted, text, call) rejected(__LINE__, #call, wanted, text, call)
#define GOOD(call)                   CHECK((call) == CNN_OK, "%s", cnn_last_error())

static void test_tensor(void) {
    float data[24] = {0};
    cnn_tensor t = {2, 3, 4, 1, data};
    size_t count = 99;
    watch(&t, sizeof t);
    watch(data, sizeof data);
    watch(&count, sizeof count);
    REJECTED(ARGUMENT, "cnn_tensor_alloc NULL", cnn_tensor_alloc(NULL, 1, 1, 1, 1));
    REJECTED(SHAPE, "cnn_tensor_alloc 0", cnn_tensor_alloc(&t, 1, 0, 1, 1));
    REJECTED(SHAPE, "cnn_tensor_alloc -5", cnn_tensor_alloc(&t, 1, 1, 1, -5));
    REJECTED(SHAPE, "cnn_tensor_alloc 65536", cnn_tensor_alloc(&t, 65536, 65536, 65536, 65536));
    REJECTED(SHAPE, "cnn_tensor_alloc 2147483647", cnn_tensor_alloc(&t, INT_MAX, INT_MAX, INT_MAX, INT_MAX));
    REJECTED(SHAPE | NOMEM, "cnn_tensor_alloc 2147483647", cnn_tensor_alloc(&t, INT_MAX, INT_MAX, 1, 1));
    REJECTED(SHAPE | NOMEM, "cnn_tensor_alloc 2147483647", cnn_tensor_alloc(&t, INT_MAX, INT_MAX, 2, 1));
    REJECTED(ARGUMENT, "cnn_tensor_count NULL", cnn_tensor_count(NULL, &count));
    REJECTED(ARGUMENT, "cnn_tensor_count NULL", cnn_tensor_count(&t, NULL));
    REJECTED(ARGUMENT, "cnn_tensor_reshape NULL", cnn_tensor_reshape(NULL, 1, 1, 1, 1));
    REJECTED(SHAPE, "cnn_tensor_reshape 24 25", cnn_tensor_reshape(&t, 25, 1, 1, 1));
    REJECTED(SHAPE, "cnn_tensor_reshape -4", cnn_tensor_reshape(&t, -4, -6, 1, 1));
    REJECTED(SHAPE, "cnn_tensor_reshape", cnn_tensor_reshape(&t, 65536, 65536, 65536, 65536));
    t.n = t.c = t.h = t.w = 65536;
    unwatch();
    watch(&t, sizeof t);
    watch(&count, sizeof count);
    REJECTED(SHAPE, "cnn_tensor_count 65536", cnn_tensor_count(&t, &count));
    REJECTED(SHAPE, "cnn_tensor_reshape", cnn_tensor_reshape(&t, 1, 1, 1, 1));
    unwatch();
    cnn_tensor_free(NULL);
    cnn_tensor_free(&(cnn_tensor){0, 0, 0, 0, NULL});
}

/* ---- tables of layers ------------------------------------------------------------------------------------
 */

typedef struct bad_table {
    cnn_layer layers[4];
    int count;
    int c, h, w;
    int wanted;
    const char *text;
} bad_table;

/* clang-format off */
static const bad_table bad_tables[] = {
    {{{.kind = CNN_CONV2D, .out = 2, .kernel = 1}, {.kind = CNN_RELU}, {.kind = CNN_MAXPOOL2D, .kernel = 4},
     {.kind = CNN_CONV2D, .out = 2, .kernel = 5}}, 4, 1, 16, 16, SHAPE,
     "layer 3 (conv2d): kernel 5x5 does not fit its 4x4 input"},
    {{{.kind = CNN_RELU}, {.kind = CNN_MAXPOOL2D, .kernel = 5}}, 2, 1, 4, 4, SHAPE,
     "layer 1 (maxpool2d) 5x5 4x4"},
    {{{.kind = CNN_AVGPOOL2D, .kernel_h = 5, .kernel_w = 1}}, 1, 1, 4, 4, SHAPE,
     "layer 0 (avgpool2d) 5x1 4x4"},
    {{{.kind = CNN_CONV2D, .out = 1, .kernel = 2, .dilation = 5}}, 1, 1, 4, 4, SHAPE,
     "layer 0 (conv2d) 4x4"},
    {{{.kind = (cnn_layer_kind)0}}, 1, 1, 4, 4, ARGUMENT, "layer 0 kind"},
    {{{.kind = CNN_RELU}, {.kind = (cnn_layer_kind)99}}, 2, 1, 4, 4, ARGUMENT, "layer 1 kind 99"},
    {{{.kind = (cnn_layer_kind)12}}, 1, 1, 4, 4, ARGUMENT, "layer 0 kind 12"},
    {{{.kind = CNN_CONV2D, .kernel = 3}}, 1, 1, 4, 4, ARGUMENT, "layer 0 (conv2d) out 0"},
    {{{.kind = CNN_CONV2D, .out = -1, .kernel = 3}}, 1, 1, 4, 4, ARGUMENT, "layer 0 (conv2d) out -1"},
    {{{.kind = CNN_CONV2D, .out = 1}}, 1, 1, 4, 4, ARGUMENT, "layer 0 (conv2d) kernel 0"},
    {{{.kind = CNN_CONV2D, .out = 1, .kernel = -3}}, 1, 1, 4, 4, ARGUMENT, "layer 0 (conv2d) kernel -3"},
    {{{.kind = CNN_CONV2D, .out = 1, .kernel_h = 3}}, 1, 1, 4, 4, ARGUMENT, "layer 0 (conv2d) kernel 0"},
    {{{.kind = CNN_CONV2D, .out = 1, .kernel = 3, .stride = -1}}, 1, 1, 4, 4, ARGUMENT,
     "layer 0 (conv2d) stride -1"},
    {{{.kind = CNN_CONV2D, .out = 1, .kernel = 3, .padding = -1}}, 1, 1, 4, 4, ARGUMENT,
     "layer 0 (conv2d) pad -1"},
    {{{.kind = CNN_CONV2D, .out = 1, .kernel = 3, .dilation_w = -1}}, 1, 1, 4, 4, ARGUMENT,
     "layer 0 (conv2d) dilation -1"},
    {{{.kind = CNN_CONV2D, .out = 4, .kernel = 3, .groups = 2}}, 1, 3, 4, 4, MISFIT,
     "layer 0 (conv2d) groups 2 3"},
    {{{.kind = CNN_CONV2D, .out = 3, .kernel = 3, .groups = 2}}, 1, 4, 4, 4, MISFIT,
     "layer 0 (conv2d) groups 2 3"},
    {{{.kind = CNN_CONV2D, .out = 3, .kernel = 3, .groups = -2}}, 1, 4, 4, 4, ARGUMENT,
     "layer 0 (conv2d) groups -2"},
    {{{.kind = CNN_CONV2D, .out = 3, .kernel = 3, .padding_mode = (cnn_padding_mode)4}}, 1, 1, 4, 4,
     ARGUMENT, "layer 0 (conv2d) padding 4"},
    {{{.kind = CNN_CONV2D, .out = 3, .kernel = 3, .padding = 4, .padding_mode = CNN_PAD_REFLECT}}, 1, 1, 4,
     4, MISFIT, "layer 0 (conv2d) reflect 4"},
    {{{.kind = CNN_CONV2D, .out = 3, .kernel = 3, .pad_left = 5, .padding_mode = CNN_PAD_CIRCULAR}}, 1, 1,
     4, 4, MISFIT, "layer 0 (conv2d) circular 5 4"},
    {{{.kind = CNN_CONV2D, .out = INT_MAX, .kernel = 1}, {.kind = CNN_CONV2D, .out = INT_MAX, .kernel = 1}},
     2, 1, 4, 4, SHAPE, "layer"},
    {{{.kind = CNN_CONV2D, .out = 1, .kernel = 1, .padding = INT_MAX}}, 1, 1, 4, 4, MISFIT,
     "layer 0 (conv2d)"},
    {{{.kind = CNN_MAXPOOL2D}}, 1, 1, 4, 4, ARGUMENT, "layer 0 (maxpool2d) kernel 0"},
    {{{.kind = CNN_MAXPOOL2D, .kernel = 3, .padding = 2}}, 1, 1, 4, 4, ARGUMENT,
     "layer 0 (maxpool2d) pad 2"},
    {{{.kind = CNN_MAXPOOL2D, .kernel = 3, .stride_w = -2}}, 1, 1, 4, 4, ARGUMENT,
     "layer 0 (maxpool2d) stride -2"},
    {{{.kind = CNN_MAXPOOL2D, .kernel = 3, .pad_top = 1}}, 1, 1, 4, 4, ARGUMENT, "layer 0 (maxpool2d) 1 0"},
    {{{.kind = CNN_AVGPOOL2D, .kernel = 3, .padding = 1, .pad_right = 2}}, 1, 1, 8, 8, ARGUMENT,
     "layer 0 (avgpool2d)"},
    {{{.kind = CNN_AVGPOOL2D, .kernel = 3, .padding = -1}}, 1, 1, 4, 4, ARGUMENT,
     "layer 0 (avgpool2d) pad -1"},
    {{{.kind = CNN_LINEAR}}, 1, 1, 4, 4, ARGUMENT, "layer 0 (linear) out 0"},
    {{{.kind = CNN_LINEAR, .out = -7}}, 1, 1, 4, 4, ARGUMENT, "layer 0 (linear) out -7"},
    {{{.kind = CNN_LINEAR, .out = INT_MAX}, {.kind = CNN_LINEAR, .out = INT_MAX}}, 2, 1, 4, 4, SHAPE,
     "layer (linear)"},
    {{{.kind = CNN_DROPOUT, .p = 1}}, 1, 1, 4, 4, ARGUMENT, "layer 0 (dropout) p 1"},
    {{{.kind = CNN_DROPOUT, .p = -0.5f}}, 1, 1, 4, 4, ARGUMENT, "layer 0 (dropout) p -0.5"},
    {{{.kind = CNN_DROPOUT, .p = NAN}}, 1, 1, 4, 4, ARGUMENT, "layer 0 (dropout) p nan"},
    {{{.kind = CNN_RELU}}, 0, 1, 4, 4, ARGUMENT, "0"},
    {{{.kind = CNN_RELU}}, -1, 1, 4, 4, ARGUMENT, "-1"},
    {{{.kind = CNN_RELU}}, 1, 0, 4, 4, MISFIT, "0x4x4"},
    {{{.kind = CNN_RELU}}, 1, 1, -4, 4, MISFIT, "-4"},
    {{{.kind = CNN_RELU}}, 1, 1, 4, INT_MIN, MISFIT, "-2147483648"},
    {{{.kind = CNN_RELU}}, 1, INT_MAX, INT_MAX, INT_MAX, SHAPE, "2147483647"}};
/* clang-format on */

/* All four ways to hand in a table refuse it alike and leave their results untouched, *net NULL. */
static void refuse_table(int line, const cnn_layer *layers, int count, const int *in, int wanted,
                         const char *text) {
    static char memory[4096];
    cnn_layer_info info[4];
    size_t bytes = 77;
    long calls = alloc_calls;
    cnn_net *net = (cnn_net *)(void *)memory;
    memset(info, 0x5a, sizeof info);
    watch(info, sizeof info);
    watch(memory, sizeof memory);
    watch(&bytes, sizeof bytes);
    rejected(line, "cnn_layers_infer", wanted, text,
             cnn_layers_infer(layers, count, in[0], in[1], in[2], info));
    rejected(line, "cnn_net_bytes", wanted, text, cnn_net_bytes(layers, count, in[0], in[1], in[2], &bytes));
    CHECK(alloc_calls == calls, "line %d: an allocation for a table that does not fit", line);
    rejected(line, "cnn_net_create", wanted, text, cnn_net_create(&net, layers, count, in[0], in[1], in[2]));
    CHECK(!net, "line %d: cnn_net_create: *net is not NULL", line);
    net = (cnn_net *)(void *)memory;
    rejected(line, "cnn_net_create_in", wanted, text,
             cnn_net_create_in(&net, layers, count, in[0], in[1], in[2], memory, sizeof memory));
    CHECK(!net, "line %d: cnn_net_create_in: *net is not NULL", line);
    unwatch();
}

static void test_bad_tables(void) {
    for (int k = 0; k < COUNT(bad_tables); k++) {
        const bad_table *bad = &bad_tables[k];
        const int in[3] = {bad->c, bad->h, bad->w};
        refuse_table(k, bad->layers, bad->count, in, bad->wanted, bad->text);
    }
    static const cnn_layer relu = {.kind = CNN_RELU};
    static const int in[3] = {1, 4, 4};
    cnn_layer_info info;
    size_t bytes = 1;
    cnn_net *net = NULL;
    refuse_table(__LINE__, NULL, 1, in, ARGUMENT, "NULL");
    REJECTED(ARGUMENT, "NULL", cnn_layers_infer(&relu, 1, 1, 4, 4, NULL));
    REJECTED(ARGUMENT, "NULL", cnn_net_bytes(&relu, 1, 1, 4, 4, NULL));
    REJECTED(ARGUMENT, "NULL", cnn_net_create(NULL, &relu, 1, 1, 4, 4));
    REJECTED(ARGUMENT, "NULL", cnn_net_create_in(NULL, &relu, 1, 1, 4, 4, &bytes, sizeof bytes));
    REJECTED(ARGUMENT, "NULL", cnn_net_create_in(&net, &relu, 1, 1, 4, 4, NULL, 1u << 20));
    REJECTED(NOMEM, "", cnn_net_create_in(&net, &relu, 1, 1, 4, 4, &bytes, 0));
    GOOD(cnn_layers_infer(&relu, 1, 1, 4, 4, &info));
    cnn_net_free(NULL);
}

/* A field of cnn_layer, and the kinds that have it. */
typedef struct layer_field {
    const char *name;
    size_t at;
    int kinds; /* bits 1 << kind */
} layer_field;

#define FIELD(name, kinds)                                                                                   \
    { #name, offsetof(cnn_layer, name), kinds }

enum {
    CONV_KIND = 1 << CNN_CONV2D,
    POOL_KINDS = 1 << CNN_MAXPOOL2D | 1 << CNN_AVGPOOL2D,
    WINDOW_KINDS = CONV_KIND | POOL_KINDS,
    DENSE_KINDS = CONV_KIND | 1 << CNN_LINEAR,
    DILATED_KINDS = CONV_KIND | 1 << CNN_MAXPOOL2D
};

static const layer_field layer_fields[] = {FIELD(out, DENSE_KINDS),
                                           FIELD(kernel, WINDOW_KINDS),
                                           FIELD(kernel_h, WINDOW_KINDS),
                                           FIELD(kernel_w, WINDOW_KINDS),
                                           FIELD(stride, WINDOW_KINDS),
                                           FIELD(stride_h, WINDOW_KINDS),
                                           FIELD(stride_w, WINDOW_KINDS),
                                           FIELD(padding, WINDOW_KINDS),
                                           FIELD(pad_top, WINDOW_KINDS),
                                           FIELD(pad_bottom, WINDOW_KINDS),
                                           FIELD(pad_left, WINDOW_KINDS),
                                           FIELD(pad_right, WINDOW_KINDS),
                                           FIELD(dilation, DILATED_KINDS),
                                           FIELD(dilation_h, DILATED_KINDS),
                                           FIELD(dilation_w, DILATED_KINDS),
                                           FIELD(groups, CONV_KIND),
                                           FIELD(padding_mode, CONV_KIND),
                                           FIELD(no_bias, DENSE_KINDS),
                                           FIELD(no_winograd, CONV_KIND),
                                           FIELD(ceil_mode, POOL_KINDS),
                                           FIELD(exclude_padding, 1 << CNN_AVGPOOL2D)};

static const char *const kind_names[] = {"",        "conv2d",  "maxpool2d", "avgpool2d", "globalavgpool2d",
                                         "linear",  "sigmoid", "tanh",      "relu",      "softmax",
                                         "dropout", "flatten"};

/* Fields that a kind does not have must be 0. */
static void test_layer_fields(void) {
    static const int in[3] = {4, 12, 12};
    for (int kind = CNN_CONV2D; kind <= CNN_FLATTEN; kind++) {
        char text[64];
        cnn_layer_info info;
        cnn_layer plain = {.kind = (cnn_layer_kind)kind};
        plain.out = DENSE_KINDS >> kind & 1;
        plain.kernel = 3 * (WINDOW_KINDS >> kind & 1);
        GOOD(cnn_layers_infer(&plain, 1, in[0], in[1], in[2], &info));
        CHECK(!strcmp(info.name, kind_names[kind]), "kind %d is called %s", kind, info.name);
        for (int i = 0; i < COUNT(layer_fields); i++) {
            const int one = 1;
            cnn_layer layer = plain;
            if (layer_fields[i].kinds >> kind & 1)
                continue;
            memcpy((char *)&layer + layer_fields[i].at, &one, sizeof one);
            snprintf(text, sizeof text, "layer 0 (%s) %s", kind_names[kind], layer_fields[i].name);
            refuse_table(__LINE__, &layer, 1, in, ARGUMENT, text);
        }
        if (kind == CNN_DROPOUT)
            continue;
        plain.p = 0.25f;
        snprintf(text, sizeof text, "layer 0 (%s) p", kind_names[kind]);
        refuse_table(__LINE__, &plain, 1, in, ARGUMENT, text);
    }
}

/* ---- a small network, its workspaces and data ------------------------------------------------------------
 */

static const cnn_layer small[] = {
    {.kind = CNN_CONV2D, .out = 3, .kernel = 3, .padding = 1},
    {.kind = CNN_RELU},
    {.kind = CNN_MAXPOOL2D, .kernel = 2},
    {.kind = CNN_CONV2D, .out = 4, .kernel = 2, .padding = 1, .padding_mode = CNN_PAD_REFLECT},
    {.kind = CNN_TANH},
    {.kind = CNN_AVGPOOL2D, .kernel = 2},
    {.kind = CNN_DROPOUT, .p = 0.25f},
    {.kind = CNN_FLATTEN},
    {.kind = CNN_LINEAR, .out = 5}};

enum { LAYERS = COUNT(small), SIDE = 8, CLASSES = 5, EXAMPLES = 23, BATCH = 6 };

typedef struct world {
    cnn_net *net;
    cnn_net *other; /* of another shape */
    cnn_workspace *inference, *training, *step;
    unsigned char bytes[EXAMPLES * SIDE * SIDE];
    unsigned char labels[EXAMPLES];
    cnn_dataset data;
    float x_data[BATCH * SIDE * SIDE], y_data[BATCH * CLASSES];
    cnn_tensor x, y;
    int index[EXAMPLES];
    int ints[EXAMPLES];
} world;

static world here;

static void make_world(void) {
    static const cnn_layer other[] = {{.kind = CNN_FLATTEN}, {.kind = CNN_LINEAR, .out = 3}};
    uint64_t state = check_seed();
    memset(&here, 0, sizeof here);
    GOOD(cnn_net_create(&here.net, small, LAYERS, 1, SIDE, SIDE));
    GOOD(cnn_net_create(&here.other, other, 2, 2, 3, 4));
    GOOD(cnn_net_init(here.net, CNN_XAVIER_UNIFORM, 1));
    GOOD(cnn_workspace_create(&here.inference, here.net, CNN_INFERENCE, BATCH, 2));
    GOOD(cnn_workspace_create(&here.training, here.net, CNN_TRAINING, BATCH, 2));
    GOOD(cnn_workspace_create(&here.step, here.net, CNN_TRAINING_STEP, BATCH, 2));
    for (int i = 0; i < EXAMPLES * SIDE * SIDE; i++)
        here.bytes[i] = (unsigned char)(check_bits(&state) >> 56);
    for (int i = 0; i < EXAMPLES; i++) {
        here.labels[i] = (unsigned char)(i % CLASSES);
        here.index[i] = i;
    }
    for (int i = 0; i < BATCH * SIDE * SIDE; i++)
        here.x_data[i] = check_uniform(&state);
    here.data = (cnn_dataset){EXAMPLES, 1, SIDE, SIDE, CLASSES, here.bytes, NULL, here.labels, NULL};
    here.x = (cnn_tensor){BATCH, 1, SIDE, SIDE, here.x_data};
    here.y = (cnn_tensor){BATCH, CLASSES, 1, 1, here.y_data};
}

static void end_world(void) {
    cnn_workspace_free(here.inference);
    cnn_workspace_free(here.training);
    cnn_workspace_free(here.step);
    cnn_net_free(here.net);
    cnn_net_free(here.other);
}

/* Watches all of the world's plain memory, the parameters and the gradients. */
static void watch_world(void) {
    const size_t block = cnn_net_parameter_count(here.net) * sizeof(float);
    watch(&here, sizeof here);
    watch(cnn_net_parameters(here.net), block);
    watch(cnn_workspace_gradients(here.training), block);
    watch(cnn_workspace_gradients(here.step), block);
}

static void test_net_accessors(void) {
    cnn_tensor weight = {1, 2, 3, 4, NULL};
    watch(&weight, sizeof weight);
    REJECTED(ARGUMENT, "NULL", cnn_net_init(NULL, CNN_XAVIER_UNIFORM, 1));
    REJECTED(ARGUMENT, "5", cnn_net_init(here.net, (cnn_init)5, 1));
    REJECTED(ARGUMENT, "", cnn_net_init(here.net, (cnn_init)-1, 1));
    REJECTED(ARGUMENT, "NULL", cnn_net_init_constant(NULL, 1, 0));
    REJECTED(ARGUMENT, "NULL", cnn_net_layer_parameters(NULL, 0, &weight, &weight));
    REJECTED(ARGUMENT, "-1", cnn_net_layer_parameters(here.net, -1, &weight, NULL));
    REJECTED(ARGUMENT, "9", cnn_net_layer_parameters(here.net, LAYERS, NULL, &weight));
    unwatch();
    GOOD(cnn_net_layer_parameters(here.net, 0, NULL, NULL));
    CHECK(!cnn_net_layer(here.net, -1) && !cnn_net_layer(here.net, LAYERS), "a layer out of range");
    CHECK(!cnn_net_layer_info(here.net, -1) && !cnn_net_layer_info(here.net, LAYERS), "info out of range");
    CHECK(!cnn_workspace_gradients(here.inference), "gradients in a workspace for inference");
}

static void test_bad_workspace(void) {
    static char memory[64];
    size_t bytes = 5;
    cnn_workspace *ws = (cnn_workspace *)(void *)memory;
    watch(&bytes, sizeof bytes);
    watch(memory, sizeof memory);
    REJECTED(ARGUMENT, "NULL", cnn_workspace_create(NULL, here.net, CNN_TRAINING, 1, 1));
    REJECTED(ARGUMENT, "NULL", cnn_workspace_create(&ws, NULL, CNN_TRAINING, 1, 1));
    CHECK(!ws, "*ws is not NULL");
    REJECTED(ARGUMENT, "mode 3", cnn_workspace_create(&ws, here.net, (cnn_mode)3, 1, 1));
    REJECTED(ARGUMENT, "mode", cnn_workspace_create(&ws, here.net, (cnn_mode)-1, 1, 1));
    REJECTED(MISFIT, "batch 0", cnn_workspace_create(&ws, here.net, CNN_TRAINING, 0, 1));
    REJECTED(MISFIT, "batch -2", cnn_workspace_create(&ws, here.net, CNN_TRAINING, -2, 1));
    REJECTED(ARGUMENT, "threads -1", cnn_workspace_create(&ws, here.net, CNN_TRAINING, 1, -1));
    REJECTED(NOMEM | SHAPE, "2147483647", cnn_workspace_create(&ws, here.net, CNN_TRAINING, INT_MAX, 1));
    REJECTED(ARGUMENT, "NULL", cnn_workspace_bytes(NULL, CNN_TRAINING, 1, 1, &bytes));
    REJECTED(ARGUMENT, "NULL", cnn_workspace_bytes(here.net, CNN_TRAINING, 1, 1, NULL));
    REJECTED(ARGUMENT, "mode 3", cnn_workspace_bytes(here.net, (cnn_mode)3, 1, 1, &bytes));
    REJECTED(MISFIT, "batch 0", cnn_workspace_bytes(here.net, CNN_TRAINING, 0, 1, &bytes));
    REJECTED(ARGUMENT, "threads -1", cnn_workspace_bytes(here.net, CNN_TRAINING, 1, -1, &bytes));
    REJECTED(ARGUMENT, "NULL", cnn_workspace_create_in(&ws, here.net, CNN_TRAINING, 1, 1, NULL, 1u << 20));
    REJECTED(ARGUMENT, "NULL", cnn_workspace_create_in(&ws, NULL, CNN_TRAINING, 1, 1, memory, 64));
    REJECTED(ARGUMENT, "NULL", cnn_workspace_create_in(NULL, here.net, CNN_TRAINING, 1, 1, memory, 64));
    REJECTED(NOMEM, "64", cnn_workspace_create_in(&ws, here.net, CNN_TRAINING, 1, 1, memory, 64));
    CHECK(!ws, "*ws is not NULL");
    unwatch();
    cnn_workspace_free(NULL);
}

static void test_bad_passes(void) {
    cnn_tensor odd = here.x;
    cnn_tensor none = {BATCH, 1, SIDE, SIDE, NULL};
    cnn_tensor none_y = {BATCH, CLASSES, 1, 1, NULL};
    cnn_tensor more = {BATCH + 1, 1, SIDE, SIDE, here.x_data};
    cnn_tensor inside = {BATCH, CLASSES, 1, 1, here.x_data + 7};
    watch_world();
    REJECTED(ARGUMENT, "NULL", cnn_forward(NULL, here.inference, &here.x, &here.y));
    REJECTED(ARGUMENT, "NULL", cnn_forward(here.net, NULL, &here.x, &here.y));
    REJECTED(ARGUMENT, "NULL", cnn_forward(here.net, here.inference, NULL, &here.y));
    REJECTED(ARGUMENT, "NULL", cnn_forward(here.net, here.inference, &here.x, NULL));
    REJECTED(ARGUMENT, "NULL", cnn_forward(here.net, here.inference, &none, &here.y));
    REJECTED(ARGUMENT, "NULL", cnn_forward(here.net, here.inference, &here.x, &none_y));
    REJECTED(ARGUMENT, "overlap", cnn_forward(here.net, here.inference, &here.x, &inside));
    REJECTED(MISFIT, "cnn_forward 7 6", cnn_forward(here.net, here.inference, &more, &here.y));
    REJECTED(MISFIT, "cnn_forward", cnn_forward(here.other, here.inference, &here.x, &here.y));
    REJECTED(ARGUMENT, "cnn_forward", cnn_forward(here.net, here.step, &here.x, &here.y));
    REJECTED(MISFIT, "cnn_backward", cnn_backward(here.net, here.training, &here.y, NULL));
    REJECTED(ARGUMENT, "cnn_backward", cnn_backward(here.net, here.inference, &here.y, NULL));
    REJECTED(ARGUMENT, "cnn_backward", cnn_backward(here.net, here.step, &here.y, NULL));
    REJECTED(ARGUMENT, "NULL", cnn_predict(NULL, here.inference, &here.x, here.ints));
    REJECTED(ARGUMENT, "NULL", cnn_predict(here.net, NULL, &here.x, here.ints));
    REJECTED(ARGUMENT, "NULL", cnn_predict(here.net, here.inference, NULL, here.ints));
    REJECTED(ARGUMENT, "NULL", cnn_predict(here.net, here.inference, &here.x, NULL));
    REJECTED(MISFIT, "cnn_predict 7 6", cnn_predict(here.net, here.inference, &more, here.ints));
    odd.w = SIDE - 1;
    REJECTED(SHAPE, "cnn_forward 8x7 8x8", cnn_forward(here.net, here.inference, &odd, &here.y));
    REJECTED(SHAPE, "cnn_predict 8x7 8x8", cnn_predict(here.net, here.inference, &odd, here.ints));
    odd = here.y;
    odd.c = CLASSES + 1;
    REJECTED(SHAPE, "cnn_forward 6", cnn_forward(here.net, here.inference, &here.x, &odd));
    odd.c = CLASSES;
    odd.n = BATCH - 1;
    REJECTED(SHAPE, "cnn_forward 5 6", cnn_forward(here.net, here.inference, &here.x, &odd));
    unwatch();
}

/* Backward passes after a right forward pass. */
static void test_bad_backward(void) {
    static float dx_data[BATCH * SIDE * SIDE];
    cnn_tensor dx = {BATCH, 1, SIDE, SIDE, dx_data};
    cnn_tensor odd = here.y;
    cnn_tensor none = {BATCH, CLASSES, 1, 1, NULL};
    cnn_tensor shared = {BATCH, 1, SIDE, SIDE, here.y_data};
    GOOD(cnn_forward(here.net, here.training, &here.x, &here.y));
    watch_world();
    watch(dx_data, sizeof dx_data);
    REJECTED(ARGUMENT, "NULL", cnn_backward(NULL, here.training, &here.y, &dx));
    REJECTED(ARGUMENT, "NULL", cnn_backward(here.net, NULL, &here.y, &dx));
    REJECTED(ARGUMENT, "NULL", cnn_backward(here.net, here.training, NULL, &dx));
    REJECTED(ARGUMENT, "NULL", cnn_backward(here.net, here.training, &none, &dx));
    REJECTED(MISFIT, "cnn_backward", cnn_backward(here.other, here.training, &here.y, &dx));
    REJECTED(ARGUMENT, "overlap", cnn_backward(here.net, here.training, &here.y, &shared));
    odd.n = BATCH - 1;
    REJECTED(SHAPE, "cnn_backward 5 6", cnn_backward(here.net, here.training, &odd, NULL));
    odd.n = BATCH;
    odd.h = 2;
    REJECTED(SHAPE, "cnn_backward", cnn_backward(here.net, here.training, &odd, NULL));
    dx.h = SIDE + 1;
    REJECTED(SHAPE, "cnn_backward 9x8 8x8", cnn_backward(here.net, here.training, &here.y, &dx));
    dx.h = SIDE;
    dx.data = NULL;
    REJECTED(ARGUMENT, "NULL", cnn_backward(here.net, here.training, &here.y, &dx));
    unwatch();
}

/* ---- data sets -------------------------------------------------------------------------------------------
 */

/* A data set that is wrong in one field. */
typedef struct bad_dataset {
    size_t field;
    int value;
    const char *text;
} bad_dataset;

static const bad_dataset bad_datasets[] = {
    {offsetof(cnn_dataset, count), -1, "-1"}, {offsetof(cnn_dataset, count), 0, "0"},
    {offsetof(cnn_dataset, c), 0, "0"},       {offsetof(cnn_dataset, h), -8, "-8"},
    {offsetof(cnn_dataset, w), 0, "0"},       {offsetof(cnn_dataset, c), 2, "2"},
    {offsetof(cnn_dataset, w), 7, "8x7 8x8"}, {offsetof(cnn_dataset, h), INT_MAX, "2147483647"}};

/* Data sets without values, with both kinds, and wrong in one field, to each function that takes one. */
static cnn_status use_dataset(int function, const cnn_dataset *data) {
    const cnn_fit_options how = {.epochs = 1, .batch = 1, .sgd = {.lr = 0.1f}};
    cnn_evaluation evaluation = {0, 0, NULL};
    switch (function) {
    case 0:
        return cnn_dataset_batch(data, here.index, &here.x, here.ints);
    case 1:
        return cnn_train_step(here.net, here.step, data, here.index, BATCH, NULL, NULL);
    case 2:
        return cnn_fit(here.net, data, NULL, &how, NULL);
    case 3:
        return cnn_fit(here.net, &here.data, data, &how, NULL);
    default:
        return cnn_evaluate(here.net, data, 1, &evaluation);
    }
}

static void test_bad_datasets(void) {
    static const char *const names[] = {"cnn_dataset_batch", "cnn_train_step", "cnn_fit", "cnn_fit (test)",
                                        "cnn_evaluate"};
    static const float floats[EXAMPLES * SIDE * SIDE];
    watch_world();
    for (int f = 0; f < COUNT(names); f++) {
        cnn_dataset data = here.data;
        for (int k = 0; k < COUNT(bad_datasets); k++) {
            data = here.data;
            memcpy((char *)&data + bad_datasets[k].field, &bad_datasets[k].value, sizeof(int));
            rejected(k, names[f], MISFIT, bad_datasets[k].text, use_dataset(f, &data));
        }
        data = here.data;
        data.bytes = NULL;
        rejected(__LINE__, names[f], ARGUMENT, "bytes floats", use_dataset(f, &data));
        data.bytes = here.bytes;
        data.floats = floats;
        rejected(__LINE__, names[f], ARGUMENT, "bytes floats", use_dataset(f, &data));
        data = here.data;
        data.labels = NULL;
        rejected(__LINE__, names[f], ARGUMENT, "labels", use_dataset(f, &data));
        if (f != 3)
            rejected(__LINE__, names[f], ARGUMENT, "NULL", use_dataset(f, NULL));
        if (!f)
            continue;
        data = here.data;
        data.classes = CLASSES + 2;
        rejected(__LINE__, names[f], MISFIT, "7 5", use_dataset(f, &data));
        data.classes = 0;
        rejected(__LINE__, names[f], MISFIT, "0", use_dataset(f, &data));
    }
    unwatch();
}

static void test_bad_labels(void) {
    const cnn_fit_options how = {.epochs = 1, .batch = EXAMPLES, .sgd = {.lr = 0.1f}};
    cnn_evaluation evaluation = {1, 2, here.ints};
    double loss = 3;
    int correct = 4;
    here.labels[4] = 77;
    watch_world();
    watch(&evaluation, sizeof evaluation);
    watch(&loss, sizeof loss);
    watch(&correct, sizeof correct);
    REJECTED(FORMAT, "4 77",
             cnn_train_step(here.net, here.step, &here.data, here.index, BATCH, &loss, &correct));
    REJECTED(FORMAT, "4 77", cnn_evaluate(here.net, &here.data, 2, &evaluation));
    REJECTED(FORMAT, "4 77", cnn_fit(here.net, &here.data, NULL, &how, NULL));
    unwatch();
    here.labels[4] = 4;
}

static void test_bad_batches(void) {
    cnn_tensor odd = here.x;
    cnn_tensor many = {EXAMPLES + 1, 1, SIDE, SIDE, here.x_data};
    cnn_tensor none = {BATCH, 1, SIDE, SIDE, NULL};
    double loss = 3;
    int correct = 4;
    watch_world();
    watch(&loss, sizeof loss);
    watch(&correct, sizeof correct);
    REJECTED(ARGUMENT, "NULL", cnn_dataset_batch(&here.data, here.index, NULL, here.ints));
    REJECTED(ARGUMENT, "NULL", cnn_dataset_batch(&here.data, here.index, &none, here.ints));
    REJECTED(MISFIT, "23", cnn_dataset_batch(&here.data, NULL, &many, here.ints));
    odd.h = 7;
    REJECTED(SHAPE, "7x8 8x8", cnn_dataset_batch(&here.data, here.index, &odd, here.ints));
    odd.h = 0;
    REJECTED(SHAPE, "0x8", cnn_dataset_batch(&here.data, here.index, &odd, here.ints));
    REJECTED(ARGUMENT, "NULL", cnn_train_step(NULL, here.step, &here.data, here.index, 2, &loss, &correct));
    REJECTED(ARGUMENT, "NULL", cnn_train_step(here.net, NULL, &here.data, here.index, 2, &loss, &correct));
    REJECTED(MISFIT, "7 6",
             cnn_train_step(here.net, here.step, &here.data, here.index, BATCH + 1, &loss, &correct));
    REJECTED(MISFIT, "0", cnn_train_step(here.net, here.step, &here.data, here.index, 0, &loss, &correct));
    REJECTED(MISFIT, "-1", cnn_train_step(here.net, here.step, &here.data, here.index, -1, &loss, &correct));
    REJECTED(ARGUMENT, "",
             cnn_train_step(here.net, here.inference, &here.data, here.index, 2, &loss, &correct));
    REJECTED(MISFIT, "", cnn_train_step(here.other, here.step, &here.data, here.index, 2, &loss, &correct));
    unwatch();
    static const int bad[] = {-1, EXAMPLES, INT_MAX, INT_MIN};
    for (int k = 0; k < COUNT(bad); k++) {
        char text[32];
        here.index[3] = bad[k];
        snprintf(text, sizeof text, "%d", bad[k]);
        watch_world();
        REJECTED(ARGUMENT, text, cnn_dataset_batch(&here.data, here.index, &here.x, here.ints));
        REJECTED(ARGUMENT, text,
                 cnn_train_step(here.net, here.step, &here.data, here.index, 6, &loss, &correct));
        unwatch();
    }
    here.index[3] = 3;
}

static void test_null_idx(void) {
    static const unsigned char idx[32];
    cnn_dataset data = here.data;
    watch(&data, sizeof data);
    REJECTED(ARGUMENT, "NULL", cnn_dataset_from_idx(NULL, idx, 32, idx, 32, 10));
    REJECTED(ARGUMENT, "NULL", cnn_dataset_from_idx(&data, NULL, 32, idx, 32, 10));
    REJECTED(ARGUMENT, "NULL", cnn_dataset_from_idx(&data, idx, 32, NULL, 32, 10));
    REJECTED(ARGUMENT, "classes 0", cnn_dataset_from_idx(&data, idx, 32, idx, 32, 0));
    REJECTED(ARGUMENT, "classes -1", cnn_dataset_from_idx(&data, idx, 32, idx, 32, -1));
    REJECTED(ARGUMENT, "classes 257", cnn_dataset_from_idx(&data, idx, 32, idx, 32, 257));
#ifndef CNN_NO_STDIO
    REJECTED(ARGUMENT, "NULL", cnn_dataset_load_idx(NULL, "a", "b", 10));
    REJECTED(ARGUMENT, "NULL", cnn_dataset_load_idx(&data, NULL, "b", 10));
    REJECTED(ARGUMENT, "classes 257", cnn_dataset_load_idx(&data, "a", "b", 257));
#endif
    unwatch();
    cnn_dataset_free(NULL);
}

/* ---- training --------------------------------------------------------------------------------------------
 */

typedef struct bad_sgd {
    cnn_sgd_options options;
    const char *text;
} bad_sgd;

/* clang-format off */
static const bad_sgd bad_sgds[] = {
    {{.lr = 0}, "lr 0"},
    {{.lr = -0.5f}, "lr -0.5"},
    {{.lr = NAN}, "lr nan"},
    {{.lr = INFINITY}, "lr inf"},
    {{.lr = 1, .momentum = -0.25f}, "momentum -0.25"},
    {{.lr = 1, .momentum = NAN}, "momentum nan"},
    {{.lr = 1, .momentum = INFINITY}, "momentum inf"},
    {{.lr = 1, .weight_decay = -0.75f}, "weight_decay -0.75"},
    {{.lr = 1, .weight_decay = NAN}, "weight_decay nan"},
    {{.lr = 1, .nesterov = 1}, "nesterov momentum"}};
/* clang-format on */

static void test_bad_sgd(void) {
    float p[4] = {1, 2, 3, 4};
    float g[4] = {1, 1, 1, 1};
    float v[4] = {0, 0, 0, 0};
    cnn_sgd_options good = {.lr = 0.5f, .momentum = 0.5f};
    cnn_progress result;
    memset(&result, 0x11, sizeof result);
    watch_world();
    watch(p, sizeof p);
    watch(v, sizeof v);
    watch(&result, sizeof result);
    for (int k = 0; k < COUNT(bad_sgds); k++) {
        const cnn_fit_options how = {.epochs = 1, .batch = 4, .sgd = bad_sgds[k].options};
        rejected(k, "cnn_sgd_step", ARGUMENT, bad_sgds[k].text,
                 cnn_sgd_step(&bad_sgds[k].options, p, g, v, 4));
        rejected(k, "cnn_fit", ARGUMENT, bad_sgds[k].text,
                 cnn_fit(here.net, &here.data, NULL, &how, &result));
    }
    REJECTED(ARGUMENT, "NULL", cnn_sgd_step(NULL, p, g, v, 4));
    REJECTED(ARGUMENT, "NULL", cnn_sgd_step(&good, NULL, g, v, 4));
    REJECTED(ARGUMENT, "NULL", cnn_sgd_step(&good, p, NULL, v, 4));
    REJECTED(ARGUMENT, "velocity", cnn_sgd_step(&good, p, g, NULL, 4));
    unwatch();
    good.momentum = 0;
    GOOD(cnn_sgd_step(&good, p, g, NULL, 4));
    CHECK(p[0] == 0.5f && p[3] == 3.5f, "a plain step gave %g, %g", (double)p[0], (double)p[3]);
}

typedef struct bad_fit {
    cnn_fit_options options;
    const char *text;
} bad_fit;

/* clang-format off */
static const bad_fit bad_fits[] = {
    {{.epochs = 0, .batch = 4, .sgd = {.lr = 1}}, "epochs 0"},
    {{.epochs = -2, .batch = 4, .sgd = {.lr = 1}}, "epochs -2"},
    {{.epochs = 1, .batch = 0, .sgd = {.lr = 1}}, "batch 0"},
    {{.epochs = 1, .batch = -3, .sgd = {.lr = 1}}, "batch -3"},
    {{.epochs = 1, .batch = 24, .sgd = {.lr = 1}}, "batch 24 23"},
    {{.epochs = 1, .batch = 4, .threads = -1, .sgd = {.lr = 1}}, "threads -1"},
    {{.epochs = 1, .batch = 4, .reports = -1, .sgd = {.lr = 1}}, "reports -1"}};
/* clang-format on */

static void test_bad_fit(void) {
    const cnn_fit_options good = {.epochs = 1, .batch = 4, .sgd = {.lr = 1}};
    cnn_evaluation evaluation = {1, 2, here.ints};
    cnn_progress result;
    memset(&result, 0x11, sizeof result);
    watch_world();
    watch(&result, sizeof result);
    watch(&evaluation, sizeof evaluation);
    for (int k = 0; k < COUNT(bad_fits); k++)
        rejected(k, "cnn_fit", MISFIT, bad_fits[k].text,
                 cnn_fit(here.net, &here.data, NULL, &bad_fits[k].options, &result));
    REJECTED(ARGUMENT, "NULL", cnn_fit(NULL, &here.data, NULL, &good, &result));
    REJECTED(ARGUMENT, "NULL", cnn_fit(here.net, NULL, NULL, &good, &result));
    REJECTED(ARGUMENT, "NULL", cnn_fit(here.net, &here.data, NULL, NULL, &result));
    REJECTED(MISFIT, "", cnn_fit(here.other, &here.data, NULL, &good, &result));
    REJECTED(ARGUMENT, "NULL", cnn_evaluate(NULL, &here.data, 1, &evaluation));
    REJECTED(ARGUMENT, "NULL", cnn_evaluate(here.net, &here.data, 1, NULL));
    REJECTED(ARGUMENT, "threads -1", cnn_evaluate(here.net, &here.data, -1, &evaluation));
    REJECTED(MISFIT, "", cnn_evaluate(here.other, &here.data, 1, &evaluation));
    unwatch();
}

/* Steps so large that the loss becomes infinite or not a number, and parameters that make it so. */
static void test_diverged(void) {
    static const cnn_sgd_options steps[] = {{.lr = 1e38f}, {.lr = 1, .weight_decay = 1e20f}};
    cnn_progress result;
    double loss = 0;
    for (int k = 0; k < COUNT(steps); k++) {
        const cnn_fit_options how = {.epochs = 20, .batch = 4, .sgd = steps[k]};
        memset(&result, 0x11, sizeof result);
        watch(&result, sizeof result);
        GOOD(cnn_net_init(here.net, CNN_XAVIER_UNIFORM, 1));
        REJECTED(DIVERGED, "cnn_fit loss learning rate", cnn_fit(here.net, &here.data, NULL, &how, &result));
        unwatch();
    }
    GOOD(cnn_net_init_constant(here.net, NAN, NAN));
    REJECTED(DIVERGED, "loss",
             cnn_train_step(here.net, here.step, &here.data, here.index, BATCH, &loss, NULL));
    GOOD(cnn_net_init(here.net, CNN_XAVIER_UNIFORM, 1));
}

/* ---- allocations -----------------------------------------------------------------------------------------
 */

/* A call that may allocate: begin prepares, call is it, end frees what it gave. */
static cnn_net *made_net;
static cnn_workspace *made_ws;
static cnn_tensor made_tensor;
static cnn_evaluation made_evaluation;
static cnn_progress made_progress;
static const operation *made_operation;

static cnn_status allocate_tensor(void) {
    return cnn_tensor_alloc(&made_tensor, 2, 3, 4, 5);
}
static cnn_status allocate_net(void) {
    return cnn_net_create(&made_net, small, LAYERS, 1, SIDE, SIDE);
}
static cnn_status allocate_inference(void) {
    return cnn_workspace_create(&made_ws, here.net, CNN_INFERENCE, BATCH, 2);
}
static cnn_status allocate_training(void) {
    return cnn_workspace_create(&made_ws, here.net, CNN_TRAINING, BATCH, 2);
}
static cnn_status allocate_step(void) {
    return cnn_workspace_create(&made_ws, here.net, CNN_TRAINING_STEP, BATCH, 2);
}
static cnn_status allocate_evaluation(void) {
    return cnn_evaluate(here.net, &here.data, 2, &made_evaluation);
}
static cnn_status allocate_fit(void) {
    const cnn_fit_options how = {
        .epochs = 1, .batch = 4, .threads = 2, .sgd = {.lr = 0.01f, .momentum = 0.5f}};
    return cnn_fit(here.net, &here.data, &here.data, &how, &made_progress);
}
static cnn_status allocate_operation(void) {
    return made_operation->call(&now);
}

static void free_made(void) {
    cnn_tensor_free(&made_tensor);
    cnn_net_free(made_net);
    cnn_workspace_free(made_ws);
    made_net = NULL;
    made_ws = NULL;
}

/* Fails allocation 1, then 2, ... until the call succeeds. Nothing may leak or be written on the way. */
static void fail_allocations(const char *name, cnn_status (*call)(void), int must) {
    const long live = alloc_live;
    cnn_status status = CNN_ERR_NOMEM;
    for (int k = 1; k < 100 && status != CNN_OK; k++) {
        cnn_tensor tensor = made_tensor;
        long calls = alloc_calls;
        alloc_fail_at = calls + k;
        status = call();
        alloc_fail_at = 0;
        if (status == CNN_OK) {
            CHECK(k > must, "%s allocates nothing", name);
            continue;
        }
        rejected(k, name, NOMEM, "", status);
        CHECK(alloc_live == live, "%s: failing allocation %d leaks %ld", name, k, alloc_live - live);
        CHECK(!made_net && !made_ws && !memcmp(&tensor, &made_tensor, sizeof tensor), "%s: left a result",
              name);
    }
    CHECK(status == CNN_OK, "%s: %s", name, cnn_last_error());
    free_made();
    CHECK(alloc_live == live, "%s leaks %ld", name, alloc_live - live);
}

static void test_failing_operations(void) {
    static const char *const isas[] = {"avx512", "avx2", "sse2", "neon", "vector", "scalar"};
    for (int i = 0; i < COUNT(isas); i++) {
        if (!check_select_isa(isas[i]))
            continue;
        for (int k = 0; k < COUNT(operations); k++) {
            made_operation = &operations[k];
            set_up(made_operation);
            watch(&now, sizeof now);
            fail_allocations(made_operation->name, allocate_operation, 0);
            unwatch();
        }
    }
    check_select_isa(NULL);
}

static void test_failing_allocations(void) {
    made_evaluation.confusion = here.ints;
    here.data.classes = CLASSES;
    memset(&made_progress, 0x77, sizeof made_progress);
    watch_world();
    watch(&made_progress, sizeof made_progress);
    fail_allocations("cnn_tensor_alloc", allocate_tensor, 1);
    fail_allocations("cnn_net_create", allocate_net, 1);
    fail_allocations("cnn_workspace_create (inference)", allocate_inference, 1);
    fail_allocations("cnn_workspace_create (training)", allocate_training, 1);
    fail_allocations("cnn_workspace_create (step)", allocate_step, 1);
    fail_allocations("cnn_fit", allocate_fit, 1);
    unwatch();
    static int confusion[CLASSES * CLASSES];
    made_evaluation.confusion = confusion;
    watch(&made_evaluation, sizeof made_evaluation);
    watch(confusion, sizeof confusion);
    fail_allocations("cnn_evaluate", allocate_evaluation, 1);
    unwatch();
}

/* Nothing allocates within a step. */
static void test_no_allocations(void) {
    static const cnn_sgd_options sgd = {.lr = 0.01f};
    long calls = alloc_calls;
    GOOD(cnn_forward(here.net, here.inference, &here.x, &here.y));
    GOOD(cnn_forward(here.net, here.training, &here.x, &here.y));
    GOOD(cnn_backward(here.net, here.training, &here.y, NULL));
    GOOD(cnn_train_step(here.net, here.step, &here.data, here.index, BATCH, NULL, NULL));
    GOOD(cnn_train_step(here.net, here.training, &here.data, here.index, BATCH, NULL, NULL));
    GOOD(cnn_predict(here.net, here.inference, &here.x, here.ints));
    GOOD(cnn_dataset_batch(&here.data, here.index, &here.x, here.ints));
    GOOD(cnn_sgd_step(&sgd, cnn_net_parameters(here.net), cnn_workspace_gradients(here.step), NULL,
                      cnn_net_parameter_count(here.net)));
    CHECK(alloc_calls == calls, "%ld allocations within a step", alloc_calls - calls);
}

/* ---- memory handed in ------------------------------------------------------------------------------------
 */

enum { GUARD = 256, GUARD_BYTE = 0xa5 };

static int guards_hold(const unsigned char *block, size_t offset, size_t bytes) {
    size_t total = offset + bytes + GUARD;
    int hold = 1;
    for (size_t i = 0; i < offset; i++)
        hold &= block[i] == GUARD_BYTE;
    for (size_t i = offset + bytes; i < total; i++)
        hold &= block[i] == GUARD_BYTE;
    return hold;
}

static unsigned char *guarded(size_t bytes) {
    size_t total = bytes + 2 * GUARD + 64;
    unsigned char *block = (unsigned char *)malloc(total);
    memset(block, GUARD_BYTE, total);
    return block;
}

static void use_workspace(const cnn_net *net, cnn_workspace *ws, cnn_mode mode) {
    if (mode != CNN_TRAINING_STEP)
        GOOD(cnn_forward(net, ws, &here.x, &here.y));
    if (mode == CNN_TRAINING)
        GOOD(cnn_backward(net, ws, &here.y, NULL));
    if (mode != CNN_INFERENCE)
        GOOD(cnn_train_step(net, ws, &here.data, here.index, BATCH, NULL, NULL));
}

/* Alignment takes up to 63 bytes of what is asked for: with one byte less it fits at some alignments, with 64
   bytes less at none. */
static int too_small_by(size_t less, size_t offset, cnn_mode mode) {
    cnn_net *net = NULL;
    cnn_workspace *ws = NULL;
    size_t net_bytes = 0;
    size_t ws_bytes = 0;
    GOOD(cnn_net_bytes(small, LAYERS, 1, SIDE, SIDE, &net_bytes));
    GOOD(cnn_workspace_bytes(here.net, mode, BATCH, 2, &ws_bytes));
    unsigned char *a = guarded(net_bytes);
    unsigned char *b = guarded(ws_bytes);
    offset += GUARD;
    const cnn_status one =
        cnn_net_create_in(&net, small, LAYERS, 1, SIDE, SIDE, a + offset, net_bytes - less);
    const cnn_status two =
        cnn_workspace_create_in(&ws, here.net, mode, BATCH, 2, b + offset, ws_bytes - less);
    CHECK(one == (net ? CNN_OK : CNN_ERR_NOMEM), "%d bytes less: %s", (int)less, cnn_status_name(one));
    CHECK(two == (ws ? CNN_OK : CNN_ERR_NOMEM), "%d bytes less: %s", (int)less, cnn_status_name(two));
    CHECK(guards_hold(a, offset, net_bytes - less), "network, offset %d, %d bytes less", (int)offset,
          (int)less);
    CHECK(guards_hold(b, offset, ws_bytes - less), "workspace, offset %d, %d bytes less", (int)offset,
          (int)less);
    cnn_workspace_free(ws);
    cnn_net_free(net);
    free(a);
    free(b);
    return !one + !two;
}

/* A network and a workspace in exactly the bytes asked for, at an offset within guard zones. */
static void test_memory_at(size_t offset, cnn_mode mode) {
    cnn_net *net = NULL;
    cnn_workspace *ws = NULL;
    size_t net_bytes = 0;
    size_t ws_bytes = 0;
    GOOD(cnn_net_bytes(small, LAYERS, 1, SIDE, SIDE, &net_bytes));
    GOOD(cnn_workspace_bytes(here.net, mode, BATCH, 2, &ws_bytes));
    unsigned char *a = guarded(net_bytes);
    unsigned char *b = guarded(ws_bytes);
    offset += GUARD;
    GOOD(cnn_net_create_in(&net, small, LAYERS, 1, SIDE, SIDE, a + offset, net_bytes));
    if (net) {
        GOOD(cnn_net_init(net, CNN_KAIMING_NORMAL, 3));
        GOOD(cnn_workspace_create_in(&ws, net, mode, BATCH, 2, b + offset, ws_bytes));
    }
    if (ws)
        use_workspace(net, ws, mode);
    CHECK(guards_hold(a, offset, net_bytes), "offset %d: written outside the network's memory", (int)offset);
    CHECK(guards_hold(b, offset, ws_bytes), "offset %d, mode %d: written outside the workspace's memory",
          (int)offset, (int)mode);
    cnn_workspace_free(ws);
    cnn_net_free(net);
    free(a);
    free(b);
}

static void test_memory_handed_in(void) {
    static const cnn_mode modes[] = {CNN_INFERENCE, CNN_TRAINING, CNN_TRAINING_STEP};
    const long calls = alloc_calls;
    for (int m = 0; m < COUNT(modes); m++) {
        int fits = 0;
        for (size_t offset = 0; offset < 64; offset++) {
            test_memory_at(offset, modes[m]);
            fits += too_small_by(1, offset, modes[m]);
            CHECK(!too_small_by(64, offset, modes[m]), "mode %d: it fits in 64 bytes less", (int)modes[m]);
        }
        CHECK(fits <= 2 * 63, "mode %d: a byte less is enough at every alignment", (int)modes[m]);
    }
    CHECK(alloc_calls == calls, "%ld allocations besides the memory handed in", alloc_calls - calls);
}

static void test_status(void) {
    static const char *const names[] = {"ok",           "argument", "shape",    "out of memory",
                                        "input/output", "format",   "diverged", "device"};
    CHECK(!strcmp(cnn_last_error(), ""), "before the first error: '%s'", cnn_last_error());
    for (int i = 0; i < COUNT(names); i++)
        CHECK(!strcmp(cnn_status_name((cnn_status)i), names[i]), "status %d is %s", i,
              cnn_status_name((cnn_status)i));
    CHECK(!strcmp(cnn_status_name((cnn_status)COUNT(names)), "unknown"), "a name for an unknown status");
    CHECK(!strcmp(cnn_status_name((cnn_status)-1), "unknown"), "a name for an unknown status");
}

int main(void) {
    test_status();
    read_operations();
    test_operations();
    test_bad_options();
    test_dropout_p();
    test_other_operands();
    test_tensor();
    test_bad_tables();
    test_layer_fields();
    make_world();
    test_net_accessors();
    test_bad_workspace();
    test_bad_passes();
    test_bad_backward();
    test_bad_datasets();
    test_bad_labels();
    test_bad_batches();
    test_null_idx();
    test_bad_sgd();
    test_bad_fit();
    test_diverged();
    test_failing_operations();
    test_failing_allocations();
    test_no_allocations();
    test_memory_handed_in();
    end_world();
    CHECK(!alloc_live, "%ld allocations are never freed", alloc_live);
    return check_done();
}
