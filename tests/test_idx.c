/* IDX files, good and bad: from memory and from files, every error naming file and field; gathering batches.
 */
#ifndef _POSIX_C_SOURCE
#define _POSIX_C_SOURCE 200809L /* mkdtemp */
#endif
#include "check.h"

#include "cnn.h"
#include <sys/stat.h>
#include <unistd.h>

#define COUNT(array) ((int)(sizeof(array) / sizeof(array)[0]))

enum {
    N = 5,
    H = 3,
    W = 4,
    CLASSES = 10,
    PIXELS = N * H * W,
    IMAGE_BYTES = 16 + PIXELS,
    LABEL_BYTES = 8 + N
};
enum { ROOM = 128 }; /* of a file's buffer */

/* A pair of files as bytes; made valid by make_pair, then spoiled. */
typedef struct pair {
    unsigned char images[ROOM], labels[ROOM];
    size_t image_bytes, label_bytes;
} pair;

static char folder[256];
static char image_path[300];
static char label_path[300];

static void put_u32(unsigned char *p, uint32_t value) {
    for (int i = 0; i < 4; i++)
        p[i] = (unsigned char)(value >> (24 - 8 * i));
}

static pair make_pair(void) {
    pair p = {{0}, {0}, IMAGE_BYTES, LABEL_BYTES};
    put_u32(p.images, 0x00000803);
    put_u32(p.images + 4, N);
    put_u32(p.images + 8, H);
    put_u32(p.images + 12, W);
    put_u32(p.labels, 0x00000801);
    put_u32(p.labels + 4, N);
    for (int i = 0; i < PIXELS; i++)
        p.images[16 + i] = (unsigned char)(i * 37 + 11);
    for (int i = 0; i < N; i++)
        p.labels[8 + i] = (unsigned char)((i * 7 + 3) % CLASSES);
    return p;
}

static void write_file(const char *path, const unsigned char *bytes, size_t count) {
    FILE *file = fopen(path, "wb");
    CHECK(file && fwrite(bytes, 1, count, file) == count, "%s cannot be written", path);
    if (file)
        fclose(file);
}

static void write_pair(const pair *p) {
    write_file(image_path, p->images, p->image_bytes);
    write_file(label_path, p->labels, p->label_bytes);
}

/* Reads from copies of exactly the bytes there are, so that a sanitizer sees a read beyond them. */
static cnn_status from_memory(cnn_dataset *data, const pair *p, unsigned char **images,
                              unsigned char **labels) {
    *images = (unsigned char *)malloc(p->image_bytes + !p->image_bytes);
    *labels = (unsigned char *)malloc(p->label_bytes + !p->label_bytes);
    memcpy(*images, p->images, p->image_bytes);
    memcpy(*labels, p->labels, p->label_bytes);
    return cnn_dataset_from_idx(data, *images, p->image_bytes, *labels, p->label_bytes, CLASSES);
}

/* ---- valid files -----------------------------------------------------------------------------------------
 */

static void check_content(const cnn_dataset *data, const pair *p) {
    CHECK(data->count == N && data->c == 1 && data->h == H && data->w == W && data->classes == CLASSES,
          "shape %d of %dx%dx%d, %d classes", data->count, data->c, data->h, data->w, data->classes);
    CHECK(data->bytes && !data->floats && data->labels, "NULL where data is");
    CHECK(!memcmp(data->bytes, p->images + 16, PIXELS), "other pixels");
    CHECK(!memcmp(data->labels, p->labels + 8, N), "other labels");
}

static void test_valid(void) {
    const pair p = make_pair();
    cnn_dataset data;
    long calls = alloc_calls;
    memset(&data, 0x33, sizeof data);
    CHECK(!cnn_dataset_from_idx(&data, p.images, p.image_bytes, p.labels, p.label_bytes, CLASSES), "%s",
          cnn_last_error());
    check_content(&data, &p);
    CHECK(data.bytes == p.images + 16 && data.labels == p.labels + 8 && !data.memory, "not a view");
    cnn_dataset_free(&data);
    CHECK(alloc_calls == calls, "a view allocates");
    write_pair(&p);
    memset(&data, 0x33, sizeof data);
    CHECK(!cnn_dataset_load_idx(&data, image_path, label_path, CLASSES), "%s", cnn_last_error());
    check_content(&data, &p);
    cnn_dataset_free(&data);
    CHECK(!data.memory && !data.bytes, "freed, but not cleared");
    CHECK(!alloc_live, "%ld allocations leaked", alloc_live);
}

/* ---- spoiled files ---------------------------------------------------------------------------------------
 */

static void check_sentence(const char *what, const char *const *texts) {
    for (int i = 0; i < 3 && texts[i]; i++)
        CHECK(strstr(cnn_last_error(), texts[i]), "%s: no '%s' in '%s'", what, texts[i], cnn_last_error());
}

/* Both ways to read the pair give status, *data untouched, nothing leaked, no large allocation. Sentences
   hold the texts; the one about a file holds the path too. */
static void check_bad(const char *what, const pair *p, const char *path, const char *const *texts) {
    unsigned char *images;
    unsigned char *labels;
    cnn_dataset before;
    cnn_dataset data;
    memset(&data, 0x44, sizeof data);
    memcpy(&before, &data, sizeof data);
    cnn_status status = from_memory(&data, p, &images, &labels);
    CHECK(status == CNN_ERR_FORMAT, "%s from memory: %s", what, cnn_status_name(status));
    check_sentence(what, texts);
    write_pair(p);
    alloc_largest = 0;
    status = cnn_dataset_load_idx(&data, image_path, label_path, CLASSES);
    CHECK(status == CNN_ERR_FORMAT, "%s from files: %s", what, cnn_status_name(status));
    check_sentence(what, texts);
    CHECK(strstr(cnn_last_error(), path), "%s: no '%s' in '%s'", what, path, cnn_last_error());
    CHECK(!memcmp(&before, &data, sizeof data), "%s: data was written to", what);
    CHECK(alloc_largest < 1u << 20, "%s: an allocation of %lu bytes", what, (unsigned long)alloc_largest);
    CHECK(!alloc_live, "%s: %ld allocations leaked", what, alloc_live);
    free(images);
    free(labels);
}

static const char *const nothing[3] = {NULL, NULL, NULL};

/* Every prefix of either file, the empty one included. */
static void test_truncated(void) {
    for (size_t bytes = 0; bytes < IMAGE_BYTES; bytes++) {
        pair p = make_pair();
        p.image_bytes = bytes;
        check_bad("image file cut short", &p, "images", nothing);
    }
    for (size_t bytes = 0; bytes < LABEL_BYTES; bytes++) {
        pair p = make_pair();
        p.label_bytes = bytes;
        check_bad("label file cut short", &p, "labels", nothing);
    }
    for (size_t extra = 1; extra < 4; extra++) {
        pair p = make_pair();
        p.image_bytes += extra;
        check_bad("image file too long", &p, "images", nothing);
        p = make_pair();
        p.label_bytes += extra;
        check_bad("label file too long", &p, "labels", nothing);
    }
}

/* Each byte of each magic number set to each other value. */
static void test_magic(void) {
    static const char *const texts[3] = {"magic", NULL, NULL};
    for (int at = 0; at < 4; at++) {
        for (int value = 0; value<256; value += value> 16 ? 13 : 1) {
            pair p = make_pair();
            int same = p.images[at] == value;
            p.images[at] = (unsigned char)value;
            if (!same)
                check_bad("magic of images", &p, "images", texts);
            p = make_pair();
            same = p.labels[at] == value;
            p.labels[at] = (unsigned char)value;
            if (!same)
                check_bad("magic of labels", &p, "labels", texts);
        }
    }
}

/* A header field of one file set to a value; the sentence names it. */
typedef struct bad_header {
    int labels; /* the label file's, else the image file's */
    int at;
    uint32_t value;
    const char *texts[3];
} bad_header;

static const bad_header bad_headers[] = {
    {0, 4, 0, {"count", "0"}},
    {0, 4, N - 1, {"count", "4", "60"}},
    {0, 4, N + 1, {"6"}},
    {0, 4, 0xffffffffu, {"count", "4294967295"}},
    {0, 4, 0x80000000u, {"count", "2147483648"}},
    {0, 8, 0, {"height", "0"}},
    {0, 8, H + 1, {"80", "60"}},
    {0, 8, 0xffffffffu, {"height", "4294967295"}},
    {0, 8, 0x80000003u, {"height", "2147483651"}},
    {0, 12, 0, {"width", "0"}},
    {0, 12, W - 1, {"45", "60"}},
    {0, 12, 0xffffffffu, {"width", "4294967295"}},
    {1, 4, 0, {"count", "0"}},
    {1, 4, N - 1, {"4"}},
    {1, 4, N + 1, {"6"}},
    {1, 4, 0xffffffffu, {"count", "4294967295"}},
    {1, 4, 0x80000005u, {"count", "2147483653"}},
};

static void test_headers(void) {
    for (int k = 0; k < COUNT(bad_headers); k++) {
        const bad_header *bad = &bad_headers[k];
        pair p = make_pair();
        char what[48];
        snprintf(what, sizeof what, "header %d", k);
        put_u32((bad->labels ? p.labels : p.images) + bad->at, bad->value);
        check_bad(what, &p, bad->labels ? "labels" : "images", bad->texts);
    }
    pair p = make_pair();
    put_u32(p.images + 4, 0xffffffffu);
    put_u32(p.images + 8, 0xffffffffu);
    put_u32(p.images + 12, 0xffffffffu);
    check_bad("all dimensions huge", &p, "images", nothing);
    put_u32(p.images + 4, 0x40000000u); /* the product is 2^64 */
    put_u32(p.images + 8, 0x10000u);
    put_u32(p.images + 12, 0x40000u);
    check_bad("a product that wraps around to 0", &p, "images", nothing);
    put_u32(p.images + 4, 1u << 16); /* the product is 2^32 */
    put_u32(p.images + 8, 1u << 8);
    put_u32(p.images + 12, 1u << 8);
    check_bad("a product that wraps around to 0 in 32 bits", &p, "images", nothing);
}

static void test_content(void) {
    static const char *const counts[3] = {"5", "4", NULL};
    static const char *const gzip[3] = {"gzip", NULL, NULL};
    pair p = make_pair();
    put_u32(p.labels + 4, N - 1);
    p.label_bytes--;
    check_bad("fewer labels than images", &p, "labels", counts);
    p = make_pair();
    put_u32(p.images + 4, N - 1);
    p.image_bytes -= H * W;
    check_bad("fewer images than labels", &p, "images", counts);
    static const int bad_labels[] = {CLASSES, 11, 255};
    for (int k = 0; k < 3 * N; k++) {
        char value[8];
        char index[8];
        snprintf(value, sizeof value, "%d", bad_labels[k / N]);
        snprintf(index, sizeof index, "%d", k % N);
        const char *const texts[3] = {"label", value, index};
        p = make_pair();
        p.labels[8 + k % N] = (unsigned char)bad_labels[k / N];
        check_bad("label outside the classes", &p, "labels", texts);
    }
    p = make_pair();
    p.images[0] = 0x1f;
    p.images[1] = 0x8b;
    check_bad("gzip images", &p, "images", gzip);
    p = make_pair();
    p.labels[0] = 0x1f;
    p.labels[1] = 0x8b;
    check_bad("gzip labels", &p, "labels", gzip);
    p.label_bytes = 2;
    check_bad("two bytes of gzip", &p, "labels", nothing);
}

static void test_swapped(void) {
    static const char *const texts[3] = {"magic", NULL, NULL};
    const pair good = make_pair();
    pair p = good;
    memcpy(p.images, good.labels, ROOM);
    put_u32(p.images + 4, N + 20);
    p.image_bytes = 8 + N + 20;
    check_bad("labels given as images", &p, "images", texts);
    p = good;
    memcpy(p.labels, good.images, ROOM);
    p.label_bytes = good.image_bytes;
    check_bad("images given as labels", &p, "labels", texts);
}

/* Files that cannot be read. */
static void test_unreadable(void) {
    const pair p = make_pair();
    char missing[300];
    cnn_dataset data = {1, 2, 3, 4, 5, NULL, NULL, NULL, NULL};
    const cnn_dataset before = data;
    snprintf(missing, sizeof missing, "%s/missing", folder);
    write_pair(&p);
    const char *const pairs[][3] = {{missing, label_path, missing}, {image_path, missing, missing},
                                    {folder, label_path, folder},   {image_path, folder, folder},
                                    {"", label_path, ""},           {missing, folder, missing}};
    for (int k = 0; k < COUNT(pairs); k++) {
        cnn_status status = cnn_dataset_load_idx(&data, pairs[k][0], pairs[k][1], CLASSES);
        CHECK(status == CNN_ERR_IO, "pair %d: %s", k, cnn_status_name(status));
        CHECK(strstr(cnn_last_error(), pairs[k][2]), "no '%s' in '%s'", pairs[k][2], cnn_last_error());
        CHECK(!memcmp(&before, &data, sizeof data), "pair %d: data was written to", k);
        CHECK(!alloc_live, "pair %d: %ld allocations leaked", k, alloc_live);
    }
}

static void test_failing_allocations(void) {
    const pair p = make_pair();
    cnn_dataset data = {1, 2, 3, 4, 5, NULL, NULL, NULL, NULL};
    const cnn_dataset before = data;
    cnn_status status = CNN_ERR_NOMEM;
    write_pair(&p);
    int k = 1;
    for (; k < 100; k++) {
        alloc_fail_at = alloc_calls + k;
        status = cnn_dataset_load_idx(&data, image_path, label_path, CLASSES);
        alloc_fail_at = 0;
        if (status == CNN_OK)
            break;
        CHECK(status == CNN_ERR_NOMEM, "allocation %d: %s", k, cnn_status_name(status));
        CHECK(!memcmp(&before, &data, sizeof data), "allocation %d: data was written to", k);
        CHECK(!alloc_live, "allocation %d: %ld leaked", k, alloc_live);
    }
    CHECK(status == CNN_OK && k > 1, "cnn_dataset_load_idx allocates nothing, or never succeeds");
    if (status == CNN_OK)
        cnn_dataset_free(&data);
    CHECK(!alloc_live, "%ld allocations leaked", alloc_live);
}

/* ---- random damage ---------------------------------------------------------------------------------------
 */

static void damage(uint64_t *state, unsigned char *bytes, size_t *count) {
    for (int flips = check_range(state, 0, 3); flips > 0 && *count; flips--)
        bytes[check_bits(state) % *count] ^= (unsigned char)(1 << check_range(state, 0, 7));
    if (check_range(state, 0, 3) == 0)
        *count = check_bits(state) % (ROOM + 1);
}

/* Whatever happens to the bytes: an error, or a data set that lies within them with labels within the
 * classes. */
static void test_random_damage(void) {
    uint64_t state = check_seed();
    int good = 0;
    int bad = 0;
    for (int round = 0; round < 4000; round++) {
        unsigned char *images;
        unsigned char *labels;
        cnn_dataset data;
        pair p = make_pair();
        damage(&state, p.images, &p.image_bytes);
        damage(&state, p.labels, &p.label_bytes);
        if (from_memory(&data, &p, &images, &labels) == CNN_OK) {
            size_t pixels = (size_t)data.count * (size_t)data.h * (size_t)data.w;
            int right =
                data.bytes == images + 16 && 16 + pixels == p.image_bytes && data.labels == labels + 8;
            for (int i = 0; right && i < data.count; i++)
                right = data.labels[i] < CLASSES;
            CHECK(right, "seed %lu, round %d: a data set that does not fit its bytes",
                  (unsigned long)check_seed(), round);
            good++;
        } else {
            CHECK(cnn_last_error()[0], "seed %lu, round %d: no sentence", (unsigned long)check_seed(), round);
            bad++;
        }
        free(images);
        free(labels);
    }
    CHECK(good > 100 && bad > 100, "%d good, %d bad", good, bad);
}

/* ---- batches ---------------------------------------------------------------------------------------------
 */

/* All 256 bytes give byte/255, in any order of the index. */
static void test_batch_values(void) {
    unsigned char bytes[256];
    unsigned char labels[64];
    int index[64];
    int got[64];
    float values[256];
    cnn_dataset data = {64, 1, 2, 2, 64, bytes, NULL, labels, NULL};
    cnn_tensor x = {64, 1, 2, 2, values};
    for (int i = 0; i < 256; i++)
        bytes[i] = (unsigned char)i;
    for (int i = 0; i < 64; i++) {
        labels[i] = (unsigned char)(63 - i);
        index[i] = (i * 29 + 5) % 64;
    }
    CHECK(!cnn_dataset_batch(&data, index, &x, got), "%s", cnn_last_error());
    for (int i = 0; i < 256; i++) {
        float want = (float)(4 * index[i / 4] + i % 4) / 255.0f;
        CHECK(values[i] == want, "value %d is %.9g, not %.9g", i, (double)values[i], (double)want);
    }
    for (int i = 0; i < 64; i++)
        CHECK(got[i] == 63 - index[i], "label %d is %d", i, got[i]);
    memset(values, 0, sizeof values);
    x.n = 3;
    CHECK(!cnn_dataset_batch(&data, NULL, &x, NULL), "%s", cnn_last_error());
    for (int i = 0; i < 256; i++) {
        const float want = i < 12 ? (float)i / 255.0f : 0;
        CHECK(values[i] == want, "value %d of the first three", i);
    }
}

/* Floats are handed on as they are; an example may appear twice. */
static void test_batch_floats(void) {
    static const float floats[6] = {-1.5f, 2, 1e-30f, 4, 1e30f, -0.0f};
    static const unsigned char labels[3] = {2, 0, 1};
    static const int index[4] = {2, 0, 2, 1};
    cnn_dataset data = {3, 2, 1, 1, 3, NULL, floats, labels, NULL};
    float values[8];
    int got[4];
    cnn_tensor x = {4, 2, 1, 1, values};
    CHECK(!cnn_dataset_batch(&data, index, &x, got), "%s", cnn_last_error());
    for (int i = 0; i < 4; i++) {
        CHECK(!memcmp(&values[2 * i], &floats[2 * index[i]], 2 * sizeof(float)), "example %d", i);
        CHECK(got[i] == labels[index[i]], "label %d is %d", i, got[i]);
    }
}

static int open_folder(void) {
    const char *parent = getenv("TMPDIR");
    snprintf(folder, sizeof folder, "%s/cnn_test_idx_XXXXXX",
             parent && strlen(parent) < 200 ? parent : "/tmp");
    if (!mkdtemp(folder))
        return 0;
    snprintf(image_path, sizeof image_path, "%s/images", folder);
    snprintf(label_path, sizeof label_path, "%s/labels", folder);
    return 1;
}

int main(void) {
    if (!open_folder()) {
        printf("no temporary folder can be made: %s\n", folder);
        return 1;
    }
    test_valid();
    test_truncated();
    test_magic();
    test_headers();
    test_content();
    test_swapped();
    test_unreadable();
    test_failing_allocations();
    test_random_damage();
    test_batch_values();
    test_batch_floats();
    remove(image_path);
    remove(label_path);
    rmdir(folder);
    return check_done();
}
