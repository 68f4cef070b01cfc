#!/bin/sh
# demo.sh: shows the main job - generate, embed, search - as SQL typed into the
# sqlite3 shell with the extension loaded.  Called by `make demo` after the build.
#
# Each statement is printed as a user would type it and then run, by one sqlite3
# process; stdbuf keeps its output unbuffered, so that tokens appear as they are
# made even where the output is a pipe.
set -e
cd "$(dirname "$0")/../.."

for needed in build/bitlm0.so tests/data/demo/notes.tsv; do
    [ -e "$needed" ] || { echo "demo.sh: $needed is not there; run make" >&2; exit 1; }
done
command -v sqlite3 >/dev/null || { echo "demo.sh: there is no sqlite3; run make deps" >&2; exit 1; }

# What is printed and what is run come from the same text.
type_() {
    printf '%s\n' "$1" | awk '
        { line = (NR == 1 ? "sqlite> " : "   ...> ") $0
          gsub(/\\/, "\\\\", line); gsub(/"/, "\\\"", line)
          print ".print \"" line "\"" }'
    printf '%s\n' "$1"
}
silently() { printf '%s\n' "$1"; }
say() { printf '.print "%s"\n' "$1"; }

script() {
    say "\\n--- 1. Load the extension: the models are inside it --------------------"
    type_ ".load build/bitlm0"
    type_ "SELECT bitlm_version();"

    say "\\n--- 2. Continue a text, a row per token as it is made -------------------"
    silently '.separator "" ""'
    type_ "SELECT piece FROM bitlm_stream('Once upon a time there was a little girl',
                                '{\"max_tokens\":66, \"seed\":12}');"
    silently '.separator "  " "\n"'
    say "\\n\\n    ... or as one value:"
    type_ "SELECT bitlm_generate('The fox said to the crow,', '{\"max_tokens\":30, \"seed\":4}');"

    say "\\n--- 3. Embed a text: 384 bits that stand for its meaning ----------------"
    type_ "SELECT hex(bitlm_embed('How do I get my money back?'));"
    say "    bits in which two texts differ: one of like meaning, one of another"
    type_ "SELECT bitlm_hamming(bitlm_embed('How do I get my money back?'), bitlm_embed('I want a refund.'));"
    type_ "SELECT bitlm_hamming(bitlm_embed('How do I get my money back?'), bitlm_embed('The king of Sweden.'));"

    say "\\n--- 4. Search a table by meaning ----------------------------------------"
    type_ "CREATE TABLE notes(id INTEGER PRIMARY KEY, source TEXT, body TEXT);"
    silently ".mode tabs"
    type_ ".import tests/data/demo/notes.tsv notes"
    type_ "ALTER TABLE notes ADD COLUMN code BLOB;"
    silently ".timer on"
    type_ "UPDATE notes SET code = bitlm_embed(body);"
    silently ".timer off"
    silently ".headers on"
    silently ".mode column --wordwrap on --wrap 70"
    type_ "SELECT id, bitlm_hamming(code, bitlm_embed('tornado alarm on my phone')) AS bits, body
  FROM notes ORDER BY bits LIMIT 3;"
    say ""
    type_ "SELECT id, bitlm_hamming(code, bitlm_embed('the big statue in Rio de Janeiro')) AS bits, body
  FROM notes ORDER BY bits LIMIT 3;"
    say ""
    type_ "SELECT id, bitlm_hamming(code, bitlm_embed('looking back to the beginning of the universe'))
         AS bits, body
  FROM notes ORDER BY bits LIMIT 3;"
    say "\\nThe table has 443 short texts (tests/data/demo); docs/DEMO_QUERIES.md has more queries."
}

script | stdbuf -o0 sqlite3 -batch -bail -init /dev/null :memory:
