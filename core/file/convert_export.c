/* convert_export.c - a GGUF file as a folder of safetensors (placeholder until written). */
#include "file/convert.h"

bitlm_status bl_convert_export(bl_plan *plan, const char *output) {
    (void)output;
    return BL_PLAN_FAIL(plan, BITLM_ARG, "the output must be named *.gguf");
}
