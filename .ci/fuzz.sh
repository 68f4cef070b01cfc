#!/bin/bash
# fuzz.sh: each tests/fuzz/fuzz_*.c for FUZZ_SECONDS (60) from where the last run
# ended; a failing input stays in build/fuzz.
cd "$(dirname "$0")/.." || exit 1
. .ci/runners.sh
.ci/deps.sh fuzz || exit 1
meson=$(command -v /usr/bin/meson || command -v meson)
export NINJA=$(command -v /usr/bin/ninja || command -v ninja)
seconds=${FUZZ_SECONDS:-60}
began=$SECONDS
dir=build/fuzz

mkdir -p build
if [ ! -e $dir/build.ninja ]; then
    CC=clang "$meson" setup $dir -Dfuzz=true -Doptimization=1 -Db_lundef=false >build/fuzz.log 2>&1 ||
        { cat build/fuzz.log; exit 1; }
fi
"$NINJA" -C $dir --quiet || exit 1

mkdir -p $dir/seeds/fuzz_gguf $dir/seeds/fuzz_model $dir/seeds/fuzz_safetensors $dir/seeds/fuzz_text
for file in tests/data/tiny/*.gguf.xz; do
    seed=$dir/seeds/fuzz_model/$(basename "$file" .xz)
    [ -e "$seed" ] || xz -dc "$file" >"$seed"
done
cp README.md $dir/seeds/fuzz_text/ 2>/dev/null
cp $dir/seeds/fuzz_model/tiny-[iq]* $dir/seeds/fuzz_gguf/
tar -xOf tests/data/convert/bitnet-packed.tar.xz bitnet-packed/model.safetensors >$dir/seeds/fuzz_safetensors/packed
printf '{"temperature":0.5,"stop":["a","b"],"seed":7,"threads":2}' >$dir/seeds/fuzz_text/options.json

for source in tests/fuzz/fuzz_*.c; do
    name=$(basename "$source" .c)
    mkdir -p $dir/corpus/"$name"
    longest=5000000
    [ "$name" = fuzz_text ] && longest=600 # instrumented, a text of 5 kB takes half a second
    step "$name, $seconds s" $dir/tests/"$name" -max_total_time="$seconds" -timeout=20 -max_len="$longest" \
        -rss_limit_mb=4096 -malloc_limit_mb=2048 -artifact_prefix=$dir/"$name-" -print_final_stats=1 \
        $dir/corpus/"$name" $dir/seeds/"$name"
done
finish "make fuzz" $((SECONDS - began))
