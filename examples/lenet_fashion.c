/* Trains LeNet on Fashion-MNIST: reads the data set, makes a network from a table of layers, trains it by SGD
   and says how well it does. train_net() and run() at the end are the whole use of the library; what stands
   before them reads the command line, shows the progress and draws the curves.

       lenet_fashion --help
       lenet_fashion --net lenet-relu --epochs 20 --plot curves.svg

   With CNN_CUDA defined, the library is another file's, compiled by nvcc (see the Makefile's target cuda).
   Exit status: 0 done, 1 something failed, 2 wrong usage; a failure is one sentence on standard error. */
#if defined(__unix__) || defined(__APPLE__)
#define _POSIX_C_SOURCE 200809L
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>
#define POSIX 1
#else
#define POSIX 0
#endif

#ifndef CNN_CUDA
#define CNN_IMPLEMENTATION
#endif
#include "cnn.h"
#include "zoo.h"

#include <errno.h>
#include <limits.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { exit_failed = 1, exit_usage = 2, max_epochs = 10000, max_text = 4000, fifths = 5, percents = 100 };

/* The one sentence of a failure; returns the exit status. */
static int fail(int status, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    fputs("lenet_fashion: ", stderr);
    vfprintf(stderr, format, arguments);
    fputs("\n", stderr);
    va_end(arguments);
    return status;
}

/* ---- Options ---- */

typedef struct settings {
    const char *net, *data, *plot, *device;
    cnn_init init;
    int epochs, batch, seed, threads, limit, quiet, help, version;
    double lr, momentum, weight_decay;
    double lr_fall; /* the learning rate falls to this share of lr by the end; 0: it stays */
} settings;

/* How each network is trained unless the command line says otherwise. The first is the default. */
static const settings recipes[] = {
    {.net = "lenet", .init = CNN_XAVIER_UNIFORM, .batch = 256, .lr = 0.9},
    {.net = "lenet-max", .init = CNN_XAVIER_UNIFORM, .batch = 256, .lr = 0.9},
    {.net = "lenet-relu",
     .init = CNN_KAIMING_UNIFORM,
     .batch = 64,
     .lr = 0.03,
     .momentum = 0.9,
     .weight_decay = 5e-4,
     .lr_fall = 0.01},
};
enum { recipe_count = sizeof recipes / sizeof recipes[0] };

typedef enum value_kind { FLAG, TEXT, WHOLE, NUMBER } value_kind;

typedef struct option {
    const char *name, *value;
    value_kind kind;
    size_t offset; /* of its member of settings */
    double low, high;
    const char *help;
} option;

static const option options[] = {
    {"data", "DIR", TEXT, offsetof(settings, data), 0, 0, "folder of the data set (data)"},
    {"net", "NAME", TEXT, offsetof(settings, net), 0, 0, "network, one of those below (lenet)"},
    {"epochs", "N", WHOLE, offsetof(settings, epochs), 1, max_epochs, "passes over the training images (10)"},
    {"batch", "N", WHOLE, offsetof(settings, batch), 1, INT_MAX, "images a step"},
    {"lr", "F", NUMBER, offsetof(settings, lr), 1e-30, 1e30, "learning rate"},
    {"momentum", "F", NUMBER, offsetof(settings, momentum), 0, 1, "momentum of SGD"},
    {"weight-decay", "F", NUMBER, offsetof(settings, weight_decay), 0, 1, "weight decay of SGD"},
    {"seed", "N", WHOLE, offsetof(settings, seed), 0, INT_MAX, "seed of the weights and the shuffling (1)"},
    {"threads", "N", WHOLE, offsetof(settings, threads), 1, 1024,
     "threads (as OpenMP says, one a processor at most)"},
    {"device", "NAME", TEXT, offsetof(settings, device), 0, 0,
     "cpu, cuda, or auto: the GPU if there is one (auto)"},
    {"limit", "N", WHOLE, offsetof(settings, limit), 1, INT_MAX, "train on the first N images only"},
    {"plot", "FILE.svg", TEXT, offsetof(settings, plot), 0, 0, "draw the curves, anew after every epoch"},
    {"quiet", NULL, FLAG, offsetof(settings, quiet), 0, 0, "print the result only"},
    {"help", NULL, FLAG, offsetof(settings, help), 0, 0, "print this and stop"},
    {"version", NULL, FLAG, offsetof(settings, version), 0, 0, "print the version and stop"},
};
enum { option_count = sizeof options / sizeof options[0] };

static void print_rule(const settings *s) {
    printf("batch %d, lr %g", s->batch, s->lr);
    if (s->lr_fall > 0)
        printf(" falling to %g", s->lr * s->lr_fall);
    printf(", momentum %g, weight decay %g", s->momentum, s->weight_decay);
}

static void print_help(void) {
    puts("Usage: lenet_fashion [OPTION]...\nTrains LeNet on Fashion-MNIST.\n");
    for (int i = 0; i < option_count; i++) {
        const option *o = &options[i];
        const int width = printf("  --%s%s%s", o->name, o->value ? " " : "", o->value ? o->value : "");
        printf("%*s%s\n", 24 - width, "", o->help);
    }
    puts("\nNetworks, with what they are trained with unless an option says otherwise:\n");
    for (int i = 0; i < recipe_count; i++) {
        printf("  %-10s  %s\n%6s", recipes[i].net, zoo_find(recipes[i].net)->title, "");
        print_rule(&recipes[i]);
        puts("");
    }
}

/* Stores an option's value; returns the exit status. */
static int set_option(const option *o, const char *text, settings *s) {
    void *member = (char *)s + o->offset;
    if (o->kind == FLAG) {
        *(int *)member = 1;
        return text ? fail(exit_usage, "--%s takes no value; leave out '=%s'", o->name, text) : 0;
    }
    if (!text || !*text)
        return fail(exit_usage, "--%s needs a value: --%s %s", o->name, o->name, o->value);
    if (o->kind == TEXT) {
        *(const char **)member = text;
        return strlen(text) > max_text ? fail(exit_usage, "--%s has too long a value", o->name) : 0;
    }
    char *end;
    errno = 0;
    const double number = o->kind == WHOLE ? (double)strtol(text, &end, 10) : strtod(text, &end);
    if (end == text || *end || errno || !(number >= o->low && number <= o->high))
        return fail(exit_usage, "--%s takes a %s from %.10g to %.10g, not '%s'", o->name,
                    o->kind == WHOLE ? "whole number" : "number", o->low, o->high, text);
    if (o->kind == WHOLE)
        *(int *)member = (int)number;
    else
        *(double *)member = number;
    return 0;
}

/* "--name value" and "--name=value"; returns the exit status. */
static int parse_options(int argc, char **argv, settings *s) {
    for (int i = 1; i < argc; i++) {
        const int dashes = strncmp(argv[i], "--", 2) == 0 ? 2 : 0;
        const char *name = argv[i] + dashes;
        const size_t length = dashes ? strcspn(name, "=") : 0;
        const option *found = NULL;
        for (int k = 0; k < option_count && length; k++)
            if (strlen(options[k].name) == length && strncmp(options[k].name, name, length) == 0)
                found = &options[k];
        if (!found)
            return fail(exit_usage, "there is no option '%s'; --help lists them", argv[i]);
        const char *value = name[length] ? name + length + 1 : NULL;
        if (!value && found->kind != FLAG && i + 1 < argc)
            value = argv[++i];
        const int status = set_option(found, value, s);
        if (status)
            return status;
    }
    return 0;
}

/* The recipe of the network that the command line names, then whatever else it says; the exit status. */
static int read_command_line(int argc, char **argv, settings *s) {
    *s = recipes[0];
    int status = parse_options(argc, argv, s);
    for (int i = 0; i < recipe_count && !status; i++)
        if (strcmp(recipes[i].net, s->net) == 0) {
            *s = recipes[i];
            s->data = "data";
            s->device = "auto";
            s->epochs = 10;
            s->seed = 1;
            s->threads = cnn_max_threads();
            return parse_options(argc, argv, s);
        }
    return status ? status : fail(exit_usage, "there is no network '%s'; --help lists them", s->net);
}

/* ---- Curves and their plot ---- */

typedef struct point {
    double x, y; /* x in epochs */
} point;

typedef struct curve {
    int count;
    point points[max_epochs * fifths];
} curve;

/* The words of a curve's name are also its classes in the figure's style sheet. */
enum { TRAIN_LOSS, TRAIN_ACCURACY, TEST_ACCURACY, curve_count };
static const char *const curve_names[curve_count] = {"train loss", "train accuracy", "test accuracy"};

typedef struct training {
    const settings *settings;
    char source[16]; /* of the data: "real" or "synthetic"; "" where it is not stated */
    int images;      /* to train on */
    int terminal;    /* standard output is one */
    int status;      /* of the plot */
    curve curves[curve_count];
} training;

static void add_point(curve *c, double x, double y) {
    c->points[c->count++] = (point){x, y};
}

/* The plotting area within the picture. */
enum { left = 52, right = 540, top = 52, bottom = 330 };

/* From a point of a curve to the picture; max is at the upper right corner of the plotting area. */
static point place(point p, point max) {
    return (point){left + (right - left) * p.x / max.x, bottom - (bottom - top) * p.y / max.y};
}

/* The least of 1, 2, 5 and 10 times a power of ten that divides range into at most so many parts. */
static double tick_step(double range, int most) {
    static const double factors[] = {1, 2, 5, 10};
    const double unit = pow(10, floor(log10(range / most)));
    int i = 0;
    while (i < 3 && factors[i] * unit * most < range)
        i++;
    return factors[i] * unit;
}

/* The figure brings a panel of its own, so that it reads on a page of any colour. */
static const char svg_head[] =
    "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 560 386\" width=\"560\" height=\"386\"\n"
    "  role=\"img\" style=\"max-width:100%;height:auto\">\n"
    "<title>Training curves</title>\n"
    "<style>\n"
    "text { fill: #333; font: 17px system-ui, -apple-system, 'Segoe UI', 'DejaVu Sans', sans-serif }\n"
    ".panel { fill: #fff } .grid { stroke: #ddd } .axis { stroke: #777 } .dot { fill: #00805c }\n"
    ".curve { fill: none; stroke-width: 2.5; stroke-linejoin: round } .loss { stroke: #0072b2 }\n"
    ".train.accuracy { stroke: #c4500a; stroke-dasharray: 9 5 }\n"
    ".test { stroke: #00805c; stroke-dasharray: 2 4 }\n"
    "@media (prefers-color-scheme: dark) {\n"
    "text { fill: #d6d6d6 } .panel { fill: #16191d } .grid { stroke: #333940 } .axis { stroke: #8a8f95 }\n"
    ".loss { stroke: #56b4e9 } .train.accuracy { stroke: #f58b45 } .test { stroke: #2fc89c }\n"
    ".dot { fill: #2fc89c }\n"
    "}\n"
    "</style>\n"
    "<rect class=\"panel\" width=\"560\" height=\"386\" rx=\"8\"/>\n";

static void draw_line(FILE *f, const char *style, double x1, double y1, double x2, double y2) {
    fprintf(f, "<line class=\"%s\" x1=\"%.1f\" y1=\"%.1f\" x2=\"%.1f\" y2=\"%.1f\"/>\n", style, x1, y1, x2,
            y2);
}

static void draw_axes(FILE *f, point max, double y_step, int synthetic) {
    const double x_step = fmax(1, tick_step(max.x, max.x > 100 ? 5 : 10));
    for (double x = 0; x <= max.x * 1.0001; x += x_step) {
        const double at = place((point){x, 0}, max).x;
        draw_line(f, "grid", at, top, at, bottom);
        fprintf(f, "<text x=\"%.1f\" y=\"%d\" text-anchor=\"middle\">%g</text>\n", at, bottom + 21, x);
    }
    for (double y = 0; y <= max.y * 1.0001; y += y_step) {
        const double at = place((point){0, y}, max).y;
        draw_line(f, y > 0 ? "grid" : "axis", left, at, right, at);
        fprintf(f, "<text x=\"%d\" y=\"%.1f\" text-anchor=\"end\">%g</text>\n", left - 8, at + 6, y);
    }
    fprintf(f, "<text x=\"%d\" y=\"%d\" text-anchor=\"middle\">epoch%s</text>\n", (left + right) / 2,
            bottom + 45, synthetic ? " (synthetic data)" : "");
}

/* A curve, its dots at whole epochs, if any, and its entry in the legend above the plot. */
static void draw_curve(FILE *f, const curve *c, const char *name, point max, int dots, int legend) {
    char style[64];
    sprintf(style, "curve %s", name);
    fprintf(f, "<polyline class=\"%s\" points=\"", style);
    for (int i = 0; i < c->count; i++)
        fprintf(f, "%s%.2f,%.2f", i ? " " : "", place(c->points[i], max).x, place(c->points[i], max).y);
    fputs("\"/>\n", f);
    draw_line(f, style, legend, 28, legend + 34, 28);
    fprintf(f, "<text x=\"%d\" y=\"34\">%s</text>\n", legend + 42, name);
    for (int i = -1; i < c->count && dots; i++) {
        const point at = i < 0 ? (point){legend + 17, 28} : place(c->points[i], max);
        fprintf(f, "<circle class=\"dot\" cx=\"%.2f\" cy=\"%.2f\" r=\"4\"/>\n", at.x, at.y);
    }
}

static void draw_figure(FILE *f, const training *t) {
    static const int legend[curve_count] = {left, left + 142, left + 322};
    point max = {t->settings->epochs, 1};
    for (int i = 0; i < curve_count; i++)
        for (int k = 0; k < t->curves[i].count; k++)
            max.y = fmax(max.y, t->curves[i].points[k].y);
    const double y_step = tick_step(max.y, 6);
    max.y = ceil(max.y / y_step - 1e-9) * y_step;
    fputs(svg_head, f);
    draw_axes(f, max, y_step, strcmp(t->source, "synthetic") == 0);
    for (int i = 0; i < curve_count; i++)
        draw_curve(f, &t->curves[i], curve_names[i], max, i == TEST_ACCURACY && max.x <= 50, legend[i]);
    fputs("</svg>\n", f);
}

/* Puts the figure in the place of the old one whole or not at all: a file beside it, then a rename. With
   only_try it finds out whether that can be done. Returns the exit status. */
static int write_plot(const training *t, int only_try) {
    const char *name = t->settings->plot;
    char part[max_text + 64];
#if POSIX
    struct stat old;
    if (stat(name, &old) == 0 && !S_ISREG(old.st_mode))
        return fail(exit_failed, "'%s' is not a regular file; give --plot another name", name);
    sprintf(part, "%s.%ld.tmp", name, (long)getpid());
#else
    sprintf(part, "%s.tmp", name);
#endif
    FILE *f = fopen(part, "wb");
    int done = f != NULL;
    if (f) {
        draw_figure(f, t);
        done = fflush(f) == 0 && !ferror(f);
        done = fclose(f) == 0 && done;
#if !POSIX
        if (done && !only_try)
            remove(name); /* where rename does not replace */
#endif
        if (done && !only_try)
            done = rename(part, name) == 0;
    }
    const int error = errno;
    if (f && (!done || only_try))
        remove(part);
    if (done)
        return 0;
    return fail(exit_failed, "cannot write the plot '%s' (%s); give --plot a file in a folder with room",
                name, strerror(error));
}

/* ---- Progress ---- */

/* Whether this step is the one that ends one of so many equal parts of the epoch. */
static int ends_part(const cnn_progress *p, int parts) {
    return (int64_t)p->step * parts / p->steps != (int64_t)(p->step - 1) * parts / p->steps;
}

/* One line, redrawn in place; it is cut off, not wrapped, where the terminal is narrow. */
static void draw_bar(const training *t, const cnn_progress *p) {
    static const char full[] = "############", rest[] = "............";
    const double done = (double)p->step / p->steps;
    const int filled = (int)(done * (double)(sizeof full - 1));
    const double to_go = (p->epochs - p->epoch + 1 - done) * t->images / p->examples_per_second;
    const int seconds = to_go < 1e6 ? (int)to_go : 0;
    printf("\r\033[?7lepoch %d/%d [%s%s] loss %.3f, acc %.3f, %.0f examples/sec, %d:%02d left\033[K\033[?7h",
           p->epoch, p->epochs, full + sizeof full - 1 - filled, rest + filled, p->loss, p->accuracy,
           p->examples_per_second, seconds / 60, seconds % 60);
    fflush(stdout);
}

/* Called after every fifth of an epoch, on a terminal after every hundredth. Printing stops the training once
   nobody can read it. */
static int on_progress(const cnn_progress *p, void *user) {
    training *t = (training *)user;
    const double x = p->epoch - 1 + (double)p->step / p->steps;
    if (ends_part(p, fifths)) {
        add_point(&t->curves[TRAIN_LOSS], x, p->loss);
        add_point(&t->curves[TRAIN_ACCURACY], x, p->accuracy);
    }
    if (t->settings->quiet)
        return 0;
    if (t->terminal)
        draw_bar(t, p);
    if (!t->terminal && ends_part(p, fifths)) {
        printf("epoch %d/%d, step %d/%d: loss %.3f, train acc %.3f\n", p->epoch, p->epochs, p->step, p->steps,
               p->loss, p->accuracy);
        fflush(stdout);
    }
    return ferror(stdout);
}

static int on_epoch(const cnn_progress *p, void *user) {
    training *t = (training *)user;
    add_point(&t->curves[TEST_ACCURACY], p->epoch, p->test_accuracy);
    if (!t->settings->quiet) {
        printf("%sepoch %d/%d: loss %.3f, train acc %.3f, test acc %.3f, %.1f examples/sec\n",
               t->terminal ? "\r\033[K" : "", p->epoch, p->epochs, p->loss, p->accuracy, p->test_accuracy,
               p->examples_per_second);
        fflush(stdout);
    }
    if (t->settings->plot)
        t->status = write_plot(t, 0);
    return t->status || ferror(stdout);
}

/* ---- Data, training, result ---- */

/* The images and labels of one part of the data set, "train" or "t10k". Returns the exit status. */
static int load_part(cnn_dataset *data, const char *folder, const char *part) {
    char images[max_text + 64], labels[max_text + 64];
    sprintf(images, "%s/%s-images-idx3-ubyte", folder, part);
    sprintf(labels, "%s/%s-labels-idx1-ubyte", folder, part);
    if (cnn_dataset_load_idx(data, images, labels, 10) == CNN_OK)
        return 0;
    return fail(exit_failed, "%s; run `make data` for the data set, or name its folder with --data",
                cnn_last_error());
}

/* The first word of the file SOURCE beside the data. */
static void read_source(char source[16], const char *folder) {
    char path[max_text + 64];
    sprintf(path, "%s/SOURCE", folder);
    FILE *f = fopen(path, "r");
    if (f && fscanf(f, "%15s", source) != 1)
        source[0] = 0;
    if (f)
        fclose(f);
}

static void print_start(const training *t, const cnn_net *net, const cnn_dataset *test) {
    const settings *s = t->settings;
    if (strcmp(t->source, "synthetic") == 0)
        puts("*** SYNTHETIC DATA, not Fashion-MNIST: the accuracy says nothing about the real data set ***");
    printf("data from %s (%s): %d training images, %d test images\n", s->data,
           *t->source ? t->source : "source not stated: real or synthetic is unknown", t->images,
           test->count);
    printf("%s: %zu parameters, ", s->net, cnn_net_parameter_count(net));
    print_rule(s);
    printf(", seed %d\n", s->seed);
    if (cnn_device_active() == CNN_DEVICE_CUDA)
        printf("training on cuda (%s)\n", cnn_device_name());
    else
        printf("training on cpu (%s, %d thread%s)\n", cnn_instruction_set(), s->threads,
               s->threads == 1 ? "" : "s");
    fflush(stdout);
}

/* From the data sets to the result. Returns the exit status. */
static int train_net(training *t, const cnn_dataset *train, const cnn_dataset *test) {
    const settings *s = t->settings;
    const zoo_entry *entry = zoo_find(s->net);
    const cnn_fit_options how = {
        .epochs = s->epochs,
        .batch = s->batch,
        .sgd = {.lr = (float)s->lr, .momentum = (float)s->momentum, .weight_decay = (float)s->weight_decay},
        .lr_end = (float)(s->lr * s->lr_fall),
        .seed = (uint64_t)s->seed,
        .threads = s->threads,
        .reports = t->terminal && !s->quiet ? percents : fifths,
        .on_progress = on_progress,
        .on_epoch = on_epoch,
        .user = t,
    };
    cnn_progress result;
    cnn_net *net = NULL;
    cnn_status status = cnn_net_create(&net, entry->layers, entry->count, entry->c, entry->h, entry->w);
    if (!status)
        status = cnn_net_init(net, s->init, (uint64_t)s->seed);
    if (!status && !s->quiet)
        print_start(t, net, test);
    if (!status)
        status = cnn_fit(net, train, test, &how, &result);
    cnn_net_free(net);
    if (status) {
        fputs(t->terminal && !s->quiet ? "\r\033[K" : "", stdout);
        fflush(stdout);
        return fail(exit_failed, "%s", cnn_last_error());
    }
    if (!result.stopped)
        printf("loss %.3f, train acc %.3f, test acc %.3f\n%.1f examples/sec on %s\n", result.loss,
               result.accuracy, result.test_accuracy, result.examples_per_second,
               cnn_device_active() == CNN_DEVICE_CUDA ? "cuda" : "cpu");
    return t->status;
}

/* Returns the exit status. */
static int choose_device(const char *name) {
    static const char *const names[] = {"auto", "cpu", "cuda"}; /* as in cnn_device */
    int device = 0;
    while (device < 3 && strcmp(names[device], name))
        device++;
    if (device == 3)
        return fail(exit_usage, "--device takes auto, cpu or cuda, not '%s'", name);
    return cnn_device_use((cnn_device)device) ? fail(exit_failed, "%s", cnn_last_error()) : 0;
}

static int run(training *t) {
    const settings *s = t->settings;
    cnn_dataset train = {0}, test = {0};
    read_source(t->source, s->data);
    int status = choose_device(s->device);
    if (!status && s->plot)
        status = write_plot(t, 1);
    if (!status)
        status = load_part(&train, s->data, "train");
    if (!status)
        status = load_part(&test, s->data, "t10k");
    if (!status && s->limit && s->limit < train.count)
        train.count = s->limit;
    t->images = train.count;
    if (!status && s->batch > train.count)
        status = fail(exit_failed, "--batch %d is more than the %d training images; give a smaller one",
                      s->batch, train.count);
    if (!status)
        status = train_net(t, &train, &test);
    cnn_dataset_free(&test);
    cnn_dataset_free(&train);
    return status;
}

int main(int argc, char **argv) {
    static training t;
    settings s;
    int status = read_command_line(argc, argv, &s);
    if (status)
        return status;
    t.settings = &s;
#ifndef _OPENMP
    s.threads = 1; /* whatever was asked for */
#endif
#if POSIX
    t.terminal = isatty(fileno(stdout));
    signal(SIGPIPE, SIG_IGN); /* a closed pipe is then an error of the write, which is reported */
#endif
    if (s.help)
        print_help();
    else if (s.version)
        printf("lenet_fashion %s\n", cnn_version());
    else
        status = run(&t);
    if ((fflush(stdout) || ferror(stdout)) && !status)
        status = fail(exit_failed, "cannot write to standard output; make room, or keep its reader open");
    return status;
}
