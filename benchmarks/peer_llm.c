/* llm.c's CPU program, a step at a time: peers.py compiles this beside a checkout of it.

   Arguments: weights, tokens (rows * time inputs, then as many targets, of 32 bits), rows, time.
   Each line on standard input asks for a training step; its loss is the answer. */

#define TESTING
#include "train_gpt2.c"

int main(int count, char **given) {
    if (count != 5) return 2;
    int rows = atoi(given[3]), time = atoi(given[4]), size = rows * time;
    int *tokens = mallocCheck(2 * size * sizeof(int));
    FILE *file = fopenCheck(given[2], "rb");
    freadCheck(tokens, sizeof(int), 2 * size, file);
    fcloseCheck(file);
    GPT2 model;
    gpt2_build_from_checkpoint(&model, given[1]);
    char line[8];
    for (int step = 1; fgets(line, sizeof line, stdin); step++) {
        gpt2_forward(&model, tokens, tokens + size, rows, time);
        gpt2_zero_grad(&model);
        gpt2_backward(&model);
        gpt2_update(&model, 1e-4f, 0.9f, 0.99f, 1e-8f, 0.1f, step);
        printf("loss %.6f\n", model.mean_loss);
        fflush(stdout);
    }
    return 0;
}
