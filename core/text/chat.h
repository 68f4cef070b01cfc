/* chat.h - chat templates as a table: recognised by what the file's template
 * contains, rendered by our own code (no Jinja engine).  Called by core/run. */
#ifndef BL_CHAT_H
#define BL_CHAT_H

#include "base/base.h"

typedef struct bl_chat_template bl_chat_template;

/* The row that renders this tokenizer.chat_template, NULL if none does. */
const bl_chat_template *bl_chat_find(const char *jinja, size_t length);
/* Row by its place (from 1) among bl_chat_names(), NULL outside. */
const bl_chat_template *bl_chat_number(int32_t number);
const char *bl_chat_name(const bl_chat_template *t);
/* Names of all rows, for the error about an unknown template: "chatml, llama3, …". */
const char *bl_chat_names(void);

/* The system message that the template writes where the first message is none ("" if it writes none); points
 * into jinja. */
bitlm_text bl_chat_system(const bl_chat_template *t, const char *jinja, size_t length);

/* system: of bl_chat_system.  messages_json: an array of {"role": "system"|"user"|"assistant", "content": text}, not
 * empty.  The result ends with the mark that lets the assistant speak; it is a fresh
 * allocation, owned by the caller.  ARG names the message that is wrong.  Text typed by a
 * user can hold marks of the template; segments tells them apart: bytes
 * segments[2i] .. segments[2i+1] of the result are content (tokenize without SPECIAL), the
 * rest is template. */
bitlm_status bl_chat_render(const bl_chat_template *t, bitlm_text system, const char *messages_json, size_t length,
                            const bl_alloc *alloc, char **text, size_t *text_length,
                            size_t **segments, size_t *n_segments, bitlm_error *error);

#endif
