/* lookup.h - guesses of the next tokens, copied from the text so far.  Called by rows.c. */
#ifndef BL_LOOKUP_H
#define BL_LOOKUP_H

#include <stdint.h>

/* What the last guesses of a text were worth; zero it to begin. */
typedef struct bl_guess {
    int32_t length;  /* tokens of the next guess; 0: none was made yet */
    int32_t misses;  /* guesses in a row of which nothing held */
    int32_t wait;    /* steps to go without one */
} bl_guess;

/* Writes up to `most` guessed tokens behind tokens[0 .. n); returns their number. */
int64_t bl_guess_make(bl_guess *guess, int32_t *tokens, int64_t n, int64_t most);
/* Of `guessed` tokens `held` came true. */
void bl_guess_learn(bl_guess *guess, int64_t guessed, int64_t held);

#endif
