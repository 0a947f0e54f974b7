/* Finds the vertical edges of an image: neighbouring pixels differ by zero where nothing changes. */
#include <stdio.h>
#define CNN_IMPLEMENTATION
#include "cnn.h"

int main(void) {
    float image[] = {1, 1, 0, 0, 0, 0, 1, 1, 1, 1, 0, 0, 0, 0, 1, 1}, difference[] = {1, -1}, edges[2 * 7];
    const cnn_tensor x = {1, 1, 2, 8, image}, kernel = {1, 1, 1, 2, difference};
    cnn_tensor y = {1, 1, 2, 7, edges};
    if (cnn_corr2d_forward(&x, &kernel, &y)) {
        fprintf(stderr, "%s\n", cnn_last_error());
        return 1;
    }
    for (int i = 0; i < 2 * 7; i++)
        printf("%3.0f%s", (double)edges[i], i % 7 == 6 ? "\n" : "");
    return 0;
}
