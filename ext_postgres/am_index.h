/* am_index.h - what the files of the access method share. */
#ifndef BLPG_AM_INDEX_H
#define BLPG_AM_INDEX_H

#include "pg_adapter.h"

/* Strategies of the operator class bit_ops. */
#define BLPG_STRATEGY_DISTANCE 1	/* ORDER BY code <^> q */
#define BLPG_STRATEGY_WITHIN 2	/* code <@ bitlm_sphere(q, r) */

#define BLPG_RANGE_SELECTIVITY 0.001

/* pg_codes.c: *center is NULL if either part is. */
extern void blpg_sphere_parts(Datum sphere, VarBit **center, int32 *radius);

#endif
