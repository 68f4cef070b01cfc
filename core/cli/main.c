/* main.c - build/bitlm: hands over to bl_cli_main (cli.c). */
#include "cli/cli.h"

int main(int argc, char **argv) { return bl_cli_main(argc, argv); }
