/* probe.h - what other weights do to a model's answers: a view of a model whose matrices can be exchanged one by one,
 * and the divergence of its next-token distributions from the model's own on a text.
 *
 * Called by quantize.c. */
#ifndef BL_PROBE_H
#define BL_PROBE_H

#include "run/run.h"

typedef struct bl_probe bl_probe;

/* Tokens that are run together: a multiple of these begins anew. */
int64_t bl_probe_window(const bitlm_model *model);
/* Runs ids (n) through the model, window by window, and keeps its distributions and, with keep_layers, what each layer
 * begins with: without, bl_probe_run takes no `first` but 0.  The model must have a head.  NOMEM, LIMIT, CANCELED, …; host lends poll and memory until bl_probe_free. */
bitlm_status bl_probe_open(bitlm_model *model, const int32_t *ids, int64_t n, int32_t threads, int keep_layers,
                           const bitlm_host *host, bl_probe **probe, bitlm_error *error);
void bl_probe_free(bl_probe *probe);
/* The first layer that the tensor of this name reaches: 0 .. n_layers (the head); -1: it is not one that can be
 * exchanged. */
int64_t bl_probe_layer(const bl_probe *probe, const char *name);
/* t takes the place of the tensor of its name: other type and data, same shape.  Both live until it is exchanged again. */
bitlm_status bl_probe_set(bl_probe *probe, const bl_tensor *t, bitlm_error *error);
/* Mean over the tokens of KL(the model's distribution || this one's), and of -log of this one's probability of the next
 * token.  first: the least layer that an exchanged tensor reaches. */
bitlm_status bl_probe_run(bl_probe *probe, int64_t first, double *divergence, double *nll, bitlm_error *error);
int64_t bl_probe_scored(const bl_probe *probe); /* tokens that nll is the mean of */
bl_pool *bl_probe_pool(bl_probe *probe);
bl_poll *bl_probe_poll(bl_probe *probe);

#endif
