-- Every function of the extension with its labels, so that a change of one is seen.
SELECT p.oid::regprocedure AS function, provolatile AS volatile, proisstrict AS strict, proparallel AS parallel,
       procost AS cost, prorows AS rows, array_to_string(p.proargnames[:p.pronargs], ' ') AS arguments, l.lanname AS language
FROM pg_proc p JOIN pg_depend d ON d.objid = p.oid AND d.classid = 'pg_proc'::regclass AND d.deptype = 'e'
     JOIN pg_extension e ON e.oid = d.refobjid JOIN pg_language l ON l.oid = p.prolang
WHERE e.extname = 'bitlm' ORDER BY p.oid::regprocedure::text COLLATE "C";

SELECT o.oid::regoperator AS operator, o.oprcode AS function, o.oprcom::regoperator AS commutator, o.oprrest AS estimate
FROM pg_operator o JOIN pg_depend d ON d.objid = o.oid AND d.classid = 'pg_operator'::regclass AND d.deptype = 'e'
     JOIN pg_extension e ON e.oid = d.refobjid
WHERE e.extname = 'bitlm' ORDER BY o.oid::regoperator::text COLLATE "C";

SELECT opcname AS class, opcintype::regtype AS type, opcdefault AS "default"
FROM pg_opclass c JOIN pg_am a ON a.oid = c.opcmethod WHERE amname = 'bitlm' ORDER BY opcname COLLATE "C";
