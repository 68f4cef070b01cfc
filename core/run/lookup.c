/* lookup.c - prompt lookup: when the last tokens stood in the text before, what followed them
 * there is likely to follow again (names, quotations, code, list items).
 *
 * The longest earlier occurrence of the last tokens wins, the latest among equals.  A guess is
 * checked by running it together with the last token in one batch, which reads the weights once;
 * what fails costs its arithmetic, so a guess doubles when it held, shrinks to what held when
 * it did not, and pauses for longer and longer while nothing holds.  The text is the same
 * whatever is guessed.  Called by rows.c. */
#include "run/lookup.h"

#include "base/base.h"

#define LEAST_MATCH 2   /* one equal token says too little */
#define MOST_MATCH 6    /* a longer one says no more */
#define FIRST_LENGTH 4
#define LONGEST_WAIT 5  /* 2^5 steps */

int64_t bl_guess_make(bl_guess *guess, int32_t *tokens, int64_t n, int64_t most) {
    int64_t best = 0, from = 0;
    if (most <= 0)
        return 0;
    if (guess->wait > 0) {
        guess->wait--;
        return 0;
    }
    if (!guess->length)
        guess->length = FIRST_LENGTH;
    for (int64_t end = n - 1; end > 0 && best < MOST_MATCH; end--) {
        int64_t match = 0;
        while (match < MOST_MATCH && match < end && tokens[end - 1 - match] == tokens[n - 1 - match])
            match++;
        if (match > best) {
            best = match;
            from = end;
        }
    }
    if (best < LEAST_MATCH)
        return 0;
    /* Where the occurrence touches the end, the guess repeats what it has written itself. */
    int64_t length = BL_MIN(most, (int64_t)guess->length);
    for (int64_t i = 0; i < length; i++)
        tokens[n + i] = tokens[from + i];
    return length;
}

void bl_guess_learn(bl_guess *guess, int64_t guessed, int64_t held) {
    if (held == guessed)
        guess->length = (int32_t)BL_MIN(2 * (int64_t)guess->length, 64);
    else
        guess->length = (int32_t)BL_MAX(held, 1) + 1;
    if (held) {
        guess->misses = 0;
    } else {
        guess->misses = BL_MIN(guess->misses + 1, LONGEST_WAIT);
        guess->wait = 1 << guess->misses;
    }
}
