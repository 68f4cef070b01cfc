/* pg_compat.h - every difference between PostgreSQL 13 to 18 that ext_postgres meets.
 *
 * The other files are written for PostgreSQL 15, Debian 12's; what a later or earlier
 * server calls otherwise gets its name here. */
#ifndef BLPG_COMPAT_H
#define BLPG_COMPAT_H

#include "postgres.h"

#if PG_VERSION_NUM < 130000
#error "bitlm needs PostgreSQL 13 or later"
#endif

#include "access/genam.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/varbit.h"
#if PG_VERSION_NUM >= 160000
#include "varatt.h"
#endif

/* 14 told aminsert whether an UPDATE left the indexed columns alone. */
#if PG_VERSION_NUM >= 140000
#define BLPG_INDEX_UNCHANGED bool indexUnchanged,
#else
#define BLPG_INDEX_UNCHANGED
#endif

/* 18 counts the disabled nodes of a path before its costs: one that can do nothing must be worse than a sequential
 * scan that is switched off, whose costs were enough before. */
#if PG_VERSION_NUM >= 180000
#define blpg_never(path) ((path)->disabled_nodes = 2)
#else
#define blpg_never(path) ((void) 0)
#endif

/* 14 gave GUC names a reserved prefix, 15 a function with a better name. */
#if PG_VERSION_NUM >= 150000
#define blpg_reserve_prefix(prefix) MarkGUCPrefixReserved(prefix)
#else
#define blpg_reserve_prefix(prefix) EmitWarningsOnPlaceholders(prefix)
#endif

/* 17: index_build asks the access method whether it builds in parallel. */
#if PG_VERSION_NUM >= 170000
#define BLPG_SERVER_PLANS_WORKERS 1
#else
#define BLPG_SERVER_PLANS_WORKERS 0
#endif

/* 16: RelFileNode became RelFileLocator. */
#if PG_VERSION_NUM >= 160000
#define BLPG_LOCATOR(relation) (&(relation)->rd_locator)
#else
#define BLPG_LOCATOR(relation) (&(relation)->rd_node)
#endif

/* 14: what pgstat.h declared moved to headers of its own. */
#if PG_VERSION_NUM >= 140000
#include "utils/backend_status.h"
#include "utils/wait_event.h"
#endif

/* 14: hooks of utility statements learnt whether the tree must be copied first. */
#if PG_VERSION_NUM >= 140000
#define BLPG_READ_ONLY_TREE bool readOnlyTree,
#define BLPG_PASS_READ_ONLY_TREE readOnlyTree,
#else
#define BLPG_READ_ONLY_TREE
#define BLPG_PASS_READ_ONLY_TREE
#endif

/* 14; 13 has these two only in later minor releases. */
#if PG_VERSION_NUM >= 140000
#define blpg_smgr(relation) RelationGetSmgr(relation)
#define blpg_milliseconds(from, to) TimestampDifferenceMilliseconds(from, to)
#else
#include "storage/smgr.h"
#include "utils/rel.h"
#include "utils/timestamp.h"
static inline SMgrRelation
blpg_smgr(Relation relation)
{
	RelationOpenSmgr(relation);
	return relation->rd_smgr;
}

static inline long
blpg_milliseconds(TimestampTz from, TimestampTz to)
{
	return to <= from ? 0 : (long) Min((to - from + 999) / 1000, INT_MAX);
}
#endif

/* 15: shared memory is asked for by a hook, before that at once. */
#if PG_VERSION_NUM >= 150000
#define BLPG_SHMEM_REQUEST_HOOK 1
#else
#define BLPG_SHMEM_REQUEST_HOOK 0
#endif

/* 16: one function asks for the owner of any object. */
#if PG_VERSION_NUM >= 160000
#define blpg_owns_relation(relation, role) object_ownercheck(RelationRelationId, relation, role)
#define blpg_owns_database(database, role) object_ownercheck(DatabaseRelationId, database, role)
#else
#define blpg_owns_relation(relation, role) pg_class_ownercheck(relation, role)
#define blpg_owns_database(database, role) pg_database_ownercheck(database, role)
#endif

/* 18: the caller says whether a deferrable primary key will do. */
#if PG_VERSION_NUM >= 180000
#define blpg_primary_key(relation) RelationGetPrimaryKeyIndex(relation, false)
#else
#define blpg_primary_key(relation) RelationGetPrimaryKeyIndex(relation)
#endif

#endif
