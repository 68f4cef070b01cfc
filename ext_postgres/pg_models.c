/* pg_models.c - which model a name means, and what can be said about models.
 *
 *     bitlm_models()            a row for the two built-in models and for each file of
 *                               bitlm.model_dir; the view bitlm_models shows it
 *     bitlm_memory([name, ...]) what a model and a session over it take, jsonb
 *     bitlm_model_id([name])    32 hex digits that name a model's weights and arithmetic
 *
 * A name is 'story', 'embed', or the file NAME.gguf in bitlm.model_dir, which only a
 * superuser sets: a user gives a name of letters, digits, '_', '-' and '.', never a path,
 * so no SQL reads another file.  Models stay open for the backend's life; before each
 * use the file is looked at again (stat), so one that was replaced by renaming is opened
 * anew.  Backends share the pages of a mapped file. */
#include "pg_adapter.h"

#include <errno.h>
#include <limits.h>
#include <sys/stat.h>

#include "catalog/pg_type.h"
#include "funcapi.h"
#include "storage/fd.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"
#include "utils/memutils.h"
#include "utils/tuplestore.h"

#define MAX_NAME 64
#define SUFFIX ".gguf"

typedef struct open_model
{
	struct open_model *next;
	bitlm_model *model;
	struct stat file;
	bool		is_builtin;
	char		name[MAX_NAME + 1];
} open_model;

static open_model *open_models;

static bool
is_builtin(const char *name, size_t length)
{
	return length == 5 && (memcmp(name, "story", 5) == 0 || memcmp(name, "embed", 5) == 0);
}

static bool
is_name(const char *name, size_t length)
{
	if (length == 0 || length > MAX_NAME || name[0] == '.')
		return false;
	for (size_t i = 0; i < length; i++)
	{
		char		c = name[i];

		if (!((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' ||
			  c == '-' || c == '.'))
			return false;
	}
	return true;
}

/* Links are followed inside of bitlm.model_dir only.  Who can put a file there could as well
 * put another model's bytes there, so nothing is lost if it changes behind this. */
static char *
inside_dir(blpg_call *call, char *path, const char *name, size_t length)
{
	char		real[PATH_MAX],
				dir[PATH_MAX];
	size_t		n;

	if (!realpath(path, real) || !realpath(blpg_model_dir, dir))
		ereport(ERROR, (errcode_for_file_access(),
						errmsg("%s: the file of model '%.*s' cannot be used: %m", call->name, (int) length, name)));
	n = strcmp(dir, "/") == 0 ? 0 : strlen(dir);
	if (strncmp(real, dir, n) != 0 || real[n] != '/')
		ereport(ERROR, (errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
						errmsg("%s: the link '%.*s%s' leads outside of bitlm.model_dir", call->name, (int) length, name, SUFFIX)));
	pfree(path);
	return pstrdup(real);
}

/* The path of a name; NULL for a built-in model. */
static char *
path_of(blpg_call *call, const char *name, size_t length, struct stat *file)
{
	char	   *path;
	bool		is_link = false;

	if (is_builtin(name, length))
		return NULL;
	if (!is_name(name, length))
		ereport(ERROR, (errcode(ERRCODE_INVALID_NAME),
						errmsg("%s: a model's name has 1 to %d letters, digits, '_', '-' and '.' and does not begin with '.'",
							   call->name, MAX_NAME),
						errhint("The name NAME means the file NAME%s in bitlm.model_dir.", SUFFIX)));
	if (!*blpg_model_dir)
		ereport(ERROR, (errcode(ERRCODE_UNDEFINED_OBJECT),
						errmsg("%s: there is no model '%.*s': the built-in models are story and embed", call->name,
							   (int) length, name),
						errhint("A superuser can set bitlm.model_dir to the directory of more models.")));
	path = psprintf("%s/%.*s%s", blpg_model_dir, (int) length, name, SUFFIX);
	if (lstat(path, file) == 0 && S_ISLNK(file->st_mode))
		is_link = true;
	if (stat(path, file) != 0)
	{
		if (errno == ENOENT)
			ereport(ERROR, (errcode(ERRCODE_UNDEFINED_OBJECT),
							errmsg("%s: there is no model '%.*s'", call->name, (int) length, name),
							errhint("SELECT name FROM bitlm_models shows those there are.")));
		ereport(ERROR, (errcode_for_file_access(),
						errmsg("%s: the file of model '%.*s' cannot be used: %m", call->name, (int) length, name)));
	}
	if (!S_ISREG(file->st_mode))
		ereport(ERROR, (errcode(ERRCODE_WRONG_OBJECT_TYPE),
						errmsg("%s: what is named '%.*s%s' is not a file", call->name, (int) length, name, SUFFIX)));
	return is_link ? inside_dir(call, path, name, length) : path;
}

static bool
same_file(const struct stat *a, const struct stat *b)
{
	return a->st_dev == b->st_dev && a->st_ino == b->st_ino && a->st_size == b->st_size &&
		a->st_mtim.tv_sec == b->st_mtim.tv_sec && a->st_mtim.tv_nsec == b->st_mtim.tv_nsec;
}

static void
find_model(blpg_call *call, const char *name, size_t length)
{
	struct stat file = {0};
	char	   *path = path_of(call, name, length, &file);
	open_model *found,
			   *fresh = NULL;
	bitlm_model *model = NULL;
	bitlm_host	host;
	bitlm_status status;

	for (found = open_models; found; found = found->next)
		if (strlen(found->name) == length && memcmp(found->name, name, length) == 0)
			break;
	if (!found || !(found->is_builtin || same_file(&found->file, &file)))
	{
		if (!found)
			fresh = MemoryContextAllocZero(TopMemoryContext, sizeof *fresh);
		blpg_host(&host);
		if (path)
			status = bitlm_model_open(path, strlen(path), 0, &call->options, &host, &model, &call->error);
		else
			status = bitlm_model_open(name, length, BITLM_OPEN_NAME_ONLY, NULL, &host, &model, &call->error);
		if (status != BITLM_OK)
		{
			if (fresh)
				pfree(fresh);
			blpg_check(call, status);
		}
		if (fresh)
		{
			memcpy(fresh->name, name, length);
			fresh->is_builtin = !path;
			fresh->next = open_models;
			open_models = fresh;
			found = fresh;
		}
		bitlm_model_free(found->model);
		found->model = model;
		found->file = file;
	}
	if (path)
		pfree(path);
	bitlm_model_retain(found->model);
	bitlm_model_free(call->model);
	call->model = found->model;
}

void
blpg_model(blpg_call *call, const char *fallback)
{
	if (call->options.model.data)
		find_model(call, call->options.model.data, call->options.model.length);
	else
		find_model(call, fallback, strlen(fallback));
}

const char *
blpg_generator(void)
{
	return *blpg_default_model ? blpg_default_model : "story";
}

void
blpg_describe(blpg_call *call, bitlm_model_info *info)
{
	memset(info, 0, sizeof *info);
	info->size = sizeof *info;
	blpg_check(call, bitlm_model_describe(call->model, info, &call->error));
}

/* ---- ids ---- */

static void
id_of(blpg_call *call, uint8_t id[16])
{
	bitlm_host	host;

	blpg_host(&host);
	blpg_check(call, bitlm_model_id(call->model, &host, id, &call->error));
}

const uint8_t *
blpg_builtin_id(void)
{
	static uint8_t id[16];
	static bool known;
	blpg_call	call = {.name = "bitlm",.error = {.size = sizeof call.error}};

	if (!known)
	{
		bitlm_options_init(&call.options);
		PG_TRY();
		{
			find_model(&call, "embed", 5);
			id_of(&call, id);
			known = true;
		}
		PG_FINALLY();
		{
			blpg_end(&call);
		}
		PG_END_TRY();
	}
	return id;
}

/* The names of the files in bitlm.model_dir. */
static List *
model_names(void)
{
	List	   *names = NIL;
	struct dirent *entry;
	DIR		   *dir;
	size_t		length;

	if (!*blpg_model_dir)
		return NIL;
	dir = AllocateDir(blpg_model_dir);
	while ((entry = ReadDir(dir, blpg_model_dir)) != NULL)
	{
		length = strlen(entry->d_name);
		if (length <= strlen(SUFFIX) || strcmp(entry->d_name + length - strlen(SUFFIX), SUFFIX) != 0)
			continue;
		length -= strlen(SUFFIX);
		if (is_name(entry->d_name, length) && !is_builtin(entry->d_name, length))
			names = lappend(names, pnstrdup(entry->d_name, length));
	}
	FreeDir(dir);
	return names;
}

/* The model with that id: the built-in `embed`, one that is open, or a file of
 * bitlm.model_dir.  A file is read as a whole once to learn its id. */
void
blpg_model_pinned(blpg_call *call, const char *hex, size_t length)
{
	static const char form[] = "a model_id has 32 hexadecimal digits, as bitlm_model_id shows it";
	uint8_t		wanted[16],
				id[16];
	List	   *names;
	ListCell   *cell;
	int			digit;

	if (length != 32)
		blpg_check(call, blpg_error(call, BITLM_ARG, "%s; this one has %zu characters", form, length));
	memset(wanted, 0, sizeof wanted);
	for (size_t i = 0; i < 32; i++)
	{
		char		c = pg_tolower((unsigned char) hex[i]);

		digit = c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
		if (digit < 0)
			blpg_check(call, blpg_error(call, BITLM_ARG, "%s", form));
		wanted[i / 2] |= (uint8_t) (digit << (i % 2 ? 0 : 4));
	}
	if (memcmp(wanted, blpg_builtin_id(), 16) == 0)
	{
		find_model(call, "embed", 5);
		return;
	}
	names = model_names();
	foreach(cell, names)
	{
		char	   *name = lfirst(cell);

		find_model(call, name, strlen(name));
		id_of(call, id);
		if (memcmp(wanted, id, 16) == 0)
			return;
	}
	ereport(ERROR, (errcode(ERRCODE_UNDEFINED_OBJECT),
					errmsg("%s: no model here has the id %.32s", call->name, hex),
					errhint("SELECT name, bitlm_model_id(name) FROM bitlm_models shows those there are.")));
}

char *
blpg_model_id_hex(blpg_call *call)
{
	static const char digits[] = "0123456789abcdef";
	uint8_t		id[16];
	char	   *hex = palloc0(33);

	id_of(call, id);
	for (int i = 0; i < 16; i++)
	{
		hex[2 * i] = digits[id[i] >> 4];
		hex[2 * i + 1] = digits[id[i] & 15];
	}
	return hex;
}

PG_FUNCTION_INFO_V1(blpg_model_id);

Datum
blpg_model_id(PG_FUNCTION_ARGS)
{
	static const blpg_option options[] = {{"model", 't'}};
	blpg_call	call;
	char	   *volatile hex = NULL;

	if (PG_ARGISNULL(0))
		PG_RETURN_NULL();
	blpg_begin(&call, "bitlm_model_id", fcinfo, 0, options, 1);
	PG_TRY();
	{
		blpg_model(&call, "embed");
		hex = blpg_model_id_hex(&call);
	}
	PG_FINALLY();
	{
		blpg_end(&call);
	}
	PG_END_TRY();
	PG_RETURN_TEXT_P(cstring_to_text(hex));
}

/* ---- bitlm_memory ---- */

PG_FUNCTION_INFO_V1(blpg_memory);

Datum
blpg_memory(PG_FUNCTION_ARGS)
{
	static const blpg_option options[] = {{"model", 't'}, {"n_ctx", 'i'}, {"kv_type", 't'}, {"rows", 'i'}, {"threads", 'i'}};
	blpg_call	call;
	char		json[1000];

	blpg_begin(&call, "bitlm_memory", fcinfo, 0, options, lengthof(options));
	PG_TRY();
	{
		if (!PG_ARGISNULL(5))
		{
			bitlm_text	shape = blpg_utf8_text(PG_GETARG_TEXT_PP(5));

			if (!PG_ARGISNULL(0))
				ereport(ERROR, errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("bitlm_memory: give a model or a shape, not both"));
			blpg_check(&call, bitlm_memory_shape_json(shape.data, shape.length, &call.options, json, sizeof json, &call.error));
		}
		else
		{
			blpg_model(&call, blpg_generator());
			blpg_check(&call, bitlm_memory_json(call.model, &call.options, json, sizeof json, &call.error));
		}
	}
	PG_FINALLY();
	{
		blpg_end(&call);
	}
	PG_END_TRY();
	PG_RETURN_DATUM(DirectFunctionCall1(jsonb_in, CStringGetDatum(json)));
}

/* ---- bitlm_models() ---- */

static void
put_model(Tuplestorestate *store, TupleDesc desc, const char *name, const char *path)
{
	Datum		values[12];
	bool		nulls[12] = {false};
	blpg_call	call = {.name = "bitlm_models",.error = {.size = sizeof call.error}};
	bitlm_model_info info;

	bitlm_options_init(&call.options);
	PG_TRY();
	{
		find_model(&call, name, strlen(name));
		blpg_describe(&call, &info);
		values[0] = CStringGetTextDatum(name);
		values[1] = CStringGetTextDatum(path ? path : "built-in");
		values[2] = CStringGetTextDatum(info.architecture);
		values[3] = CStringGetTextDatum(info.weight_type);
		values[4] = Int64GetDatum((int64) info.n_parameters);
		values[5] = Int64GetDatum((int64) info.file_bytes);
		values[6] = Int32GetDatum(info.context_length);
		values[7] = Int32GetDatum(info.embedding_bits);
		nulls[7] = info.embedding_bits == 0;
		values[8] = BoolGetDatum(info.can_generate != 0);
		values[9] = BoolGetDatum(info.can_chat != 0);
		values[10] = BoolGetDatum(info.can_embed != 0);
		nulls[11] = true;
		tuplestore_putvalues(store, desc, values, nulls);
	}
	PG_FINALLY();
	{
		blpg_end(&call);
	}
	PG_END_TRY();
}

/* A file that cannot be opened has a row too, with what is wrong in `error`. */
static void
put_file(Tuplestorestate *store, TupleDesc desc, const char *name)
{
	MemoryContext old = CurrentMemoryContext;
	Datum		values[12] = {0};
	bool		nulls[12];
	ErrorData  *error;

	PG_TRY();
	{
		put_model(store, desc, name, psprintf("%s%s", name, SUFFIX));
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(old);
		error = CopyErrorData();
		/* Interrupts and lack of memory are not the file's fault. */
		if (error->sqlerrcode == ERRCODE_QUERY_CANCELED || error->sqlerrcode == ERRCODE_OUT_OF_MEMORY)
			PG_RE_THROW();
		FlushErrorState();
		memset(nulls, true, sizeof nulls);
		values[0] = CStringGetTextDatum(name);
		values[11] = CStringGetTextDatum(error->message);
		nulls[0] = nulls[11] = false;
		tuplestore_putvalues(store, desc, values, nulls);
	}
	PG_END_TRY();
}

PG_FUNCTION_INFO_V1(blpg_models);

Datum
blpg_models(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *info = (ReturnSetInfo *) fcinfo->resultinfo;
	MemoryContext per_query,
				old;
	Tuplestorestate *store;
	TupleDesc	desc;
	List	   *names;
	ListCell   *cell;

	if (!info || !IsA(info, ReturnSetInfo) || !(info->allowedModes & SFRM_Materialize) ||
		get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE)
		ereport(ERROR, (errcode(ERRCODE_FEATURE_NOT_SUPPORTED), errmsg("bitlm_models must stand in FROM")));
	per_query = info->econtext->ecxt_per_query_memory;
	old = MemoryContextSwitchTo(per_query);
	desc = CreateTupleDescCopy(desc);
	store = tuplestore_begin_heap(true, false, work_mem);
	info->returnMode = SFRM_Materialize;
	info->setResult = store;
	info->setDesc = desc;
	MemoryContextSwitchTo(old);
	put_model(store, desc, "story", NULL);
	put_model(store, desc, "embed", NULL);
	names = model_names();
	foreach(cell, names)
		put_file(store, desc, lfirst(cell));
	return (Datum) 0;
}
