/* cli_synth.c - `bitlm synth`: writes a random-weight model of a known shape and tensor
 * type, for tests and measurements.  The work is synth.c's.  Called by cli.c. */
#define _GNU_SOURCE
#include "cli/cli.h"

#include <string.h>

int bl_cli_synth(int argc, char **argv, int first)
{
    (void)argc, (void)argv, (void)first;
    return bl_cli_fail("synth is not built in");
}
