/* pg_state.c - the backend's half of bitlm.h: polling, memory, errors, sessions.
 *
 * Polling: signal handlers set InterruptPending.  The poll callback runs
 * CHECK_FOR_INTERRUPTS in PG_TRY, because an ERROR must not jump through the core: it
 * keeps the error, answers "stop", and blpg_check throws it again once the core has
 * returned CANCELED.  If it returns normally (a barrier was passed, interrupts are held
 * off), the core goes on.  FATAL does not return; proc_exit_inprogress keeps the
 * clean-up away from a session that is still in use down the stack.
 *
 * Sessions: opening one costs an arena of many pages, so a call takes an idle one of
 * the same shape or opens another.  Small ones stay for the backend's life, at most
 * KEPT_SESSIONS of them; those beyond SMALL_SESSION, whose KV cache may be large, are
 * freed when the statement ends (a callback of the calling function's memory context)
 * and at the end of the transaction at the latest.  A session's memory is a context
 * below TopMemoryContext, so pg_backend_memory_contexts shows it. */
#include "pg_adapter.h"

#include <errno.h>
#include <stdarg.h>

#include "access/parallel.h"
#include "access/xact.h"
#include "storage/ipc.h"
#include "utils/memutils.h"

#define KEPT_SESSIONS 2
#define SMALL_SESSION (16 * 1024 * 1024)

struct blpg_session
{
	blpg_session *next;
	bitlm_session *core;
	bitlm_model *model;
	MemoryContext memory;
	Size		bytes;			/* that the core asked for */
	int32_t		n_ctx,
				kv_type,
				threads,
				rows,
				activations;
	bool		busy;
};

static blpg_session *sessions;
static ErrorData *caught;		/* by the poll, until blpg_check throws it again */

/* ---- host ---- */

static int32_t
poll_host(void *context)
{
	MemoryContext old = CurrentMemoryContext;
	volatile int32_t stop = 0;

	if (likely(!InterruptPending))
		return 0;
	if (caught)
		return 1;
	PG_TRY();
	{
		CHECK_FOR_INTERRUPTS();
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(old);
		caught = CopyErrorData();
		FlushErrorState();
		stop = 1;
	}
	PG_END_TRY();
	return stop;
}

/* palloc aligns to 8, the core wants 16; the address to free stands in front. */
static void *
alloc_host(void *context, size_t size)
{
	blpg_session *session = context;
	char	   *raw,
			   *aligned;

	if (size > MaxAllocHugeSize - 96)
		return NULL;
	raw = MemoryContextAllocExtended(session->memory, size + 72, MCXT_ALLOC_HUGE | MCXT_ALLOC_NO_OOM);
	if (!raw)
		return NULL;
	session->bytes += size;
	aligned = (char *) TYPEALIGN(64, raw + sizeof(void *));
	memcpy(aligned - sizeof(void *), &raw, sizeof(void *));
	return aligned;
}

static void
release_host(void *context, void *memory)
{
	void	   *raw;

	if (!memory)
		return;
	memcpy(&raw, (char *) memory - sizeof(void *), sizeof(void *));
	pfree(raw);
}

static void
log_host(void *context, int32_t level, const char *text, size_t length)
{
	/* WARNING and LOG do not jump, unless the client's connection is gone: DEBUG is enough. */
	elog(DEBUG1, "bitlm: %.*s", (int) Min(length, 1000), text);
}

void
blpg_host(bitlm_host *host)
{
	memset(host, 0, sizeof *host);
	host->size = sizeof *host;
	host->poll = poll_host;
	host->log = log_host;
}

/* ---- errors ---- */

static int
sqlstate(const blpg_call *call, bitlm_status status)
{
	switch (status)
	{
		case BITLM_ARG:
			return ERRCODE_INVALID_PARAMETER_VALUE;
		case BITLM_NOMEM:
			return ERRCODE_OUT_OF_MEMORY;
		case BITLM_FORMAT:
			return ERRCODE_DATA_EXCEPTION;
		case BITLM_CORRUPT:
			return ERRCODE_INDEX_CORRUPTED;
		case BITLM_UNSUPPORTED:
			return ERRCODE_FEATURE_NOT_SUPPORTED;
		case BITLM_LIMIT:
			return ERRCODE_PROGRAM_LIMIT_EXCEEDED;
		case BITLM_BUSY:
			return ERRCODE_OBJECT_IN_USE;
		case BITLM_TIMEOUT:
		case BITLM_CANCELED:
			return ERRCODE_QUERY_CANCELED;
		default:
			return ERRCODE_INTERNAL_ERROR;
	}
}

bitlm_status
blpg_error(blpg_call *call, bitlm_status status, const char *format,...)
{
	va_list		arguments;

	call->error.status = status;
	call->error.sys_errno = 0;
	va_start(arguments, format);
	vsnprintf(call->error.text, sizeof call->error.text, format, arguments);
	va_end(arguments);
	return status;
}

void
blpg_check(blpg_call *call, bitlm_status status)
{
	const char *sentence = call->error.text[0] ? call->error.text : bitlm_status_name(status);

	if (likely(status == BITLM_OK || status == BITLM_DONE))
		return;
	if (status == BITLM_CANCELED && caught)
	{
		ErrorData  *error = caught;

		caught = NULL;
		ReThrowError(error);
	}
	if (status == BITLM_IO)
	{
		errno = call->error.sys_errno;
		ereport(ERROR, (errcode_for_file_access(), errmsg("%s: %s", call->name, sentence)));
	}
	ereport(ERROR, (errcode(sqlstate(call, status)), errmsg("%s: %s", call->name, sentence)));
}

bool
blpg_forgiven(const blpg_call *call, bitlm_status status)
{
	return status != BITLM_OK && call->options.on_error == BITLM_ON_ERROR_NULL &&
		status != BITLM_CANCELED && status != BITLM_NOMEM && status != BITLM_INTERNAL;
}

/* ---- sessions ---- */

static void
session_free(blpg_session *session)
{
	bitlm_session_free(session->core);
	bitlm_model_free(session->model);
	MemoryContextDelete(session->memory);	/* with the struct */
}

/* Frees idle sessions: large ones, and small ones beyond those that are kept. */
static void
sweep(void)
{
	blpg_session **at = &sessions;
	blpg_session *session;
	int			kept = 0;

	if (proc_exit_inprogress)
		return;
	while ((session = *at) != NULL)
	{
		if (!session->busy && (session->bytes > SMALL_SESSION || ++kept > KEPT_SESSIONS))
		{
			*at = session->next;
			session_free(session);
		}
		else
			at = &session->next;
	}
}

static void
sweep_callback(void *argument)
{
	sweep();
}

void
blpg_free_at_end(FmgrInfo *flinfo)
{
	MemoryContextCallback *callback;

	if (flinfo->fn_extra)
		return;
	callback = MemoryContextAllocZero(flinfo->fn_mcxt, sizeof *callback);
	callback->func = sweep_callback;
	MemoryContextRegisterResetCallback(flinfo->fn_mcxt, callback);
	flinfo->fn_extra = callback;
}

/* A context that has the callback, so that a function called for many rows adds one. */
static MemoryContext rows_context;

static void
rows_callback(void *argument)
{
	rows_context = NULL;
	sweep();
}

void
blpg_free_rows_at_end(FmgrInfo *flinfo)
{
	MemoryContextCallback *callback;

	if (flinfo->fn_mcxt == rows_context)
		return;
	callback = MemoryContextAllocZero(flinfo->fn_mcxt, sizeof *callback);
	callback->func = rows_callback;
	MemoryContextRegisterResetCallback(flinfo->fn_mcxt, callback);
	rows_context = flinfo->fn_mcxt;
}

static void
transaction_callback(XactEvent event, void *argument)
{
	if (event == XACT_EVENT_COMMIT || event == XACT_EVENT_ABORT || event == XACT_EVENT_PARALLEL_COMMIT ||
		event == XACT_EVENT_PARALLEL_ABORT)
	{
		caught = NULL;
		sweep();
	}
}

void
blpg_init_state(void)
{
	RegisterXactCallback(transaction_callback, NULL);
}

void
blpg_borrow(blpg_call *call)
{
	const bitlm_options *o = &call->options;
	blpg_session *session;
	MemoryContext memory;
	bitlm_host	host;
	bitlm_status status;

	for (session = sessions; session; session = session->next)
	{
		if (!session->busy && session->model == call->model && session->n_ctx == o->n_ctx &&
			session->kv_type == o->kv_type && session->threads == o->threads && session->rows == o->rows &&
			session->activations == o->activations)
		{
			session->busy = true;
			call->session = session;
			return;
		}
	}
	memory = AllocSetContextCreate(TopMemoryContext, "bitlm session", ALLOCSET_START_SMALL_SIZES);
	session = MemoryContextAllocZero(memory, sizeof *session);
	session->memory = memory;
	blpg_host(&host);
	host.context = session;
	host.alloc = alloc_host;
	host.release = release_host;
	status = bitlm_session_open(call->model, o, &host, &session->core, &call->error);
	if (status != BITLM_OK)
	{
		MemoryContextDelete(memory);
		blpg_check(call, status);
	}
	bitlm_model_retain(call->model);
	session->model = call->model;
	session->n_ctx = o->n_ctx;
	session->kv_type = o->kv_type;
	session->threads = o->threads;
	session->rows = o->rows;
	session->activations = o->activations;
	session->busy = true;
	session->next = sessions;
	sessions = session;
	call->session = session;
}

bitlm_session *
blpg_core(const blpg_call *call)
{
	return call->session->core;
}

void
blpg_end(blpg_call *call)
{
	if (proc_exit_inprogress)
		return;
	if (call->session)
		call->session->busy = false;
	call->session = NULL;
	bitlm_model_free(call->model);
	call->model = NULL;
	bitlm_options_clear(&call->options);
}
