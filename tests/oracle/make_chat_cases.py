#!/usr/bin/env python3
"""Golden renderings of chat templates by PyPI's jinja2, as transformers runs it.

    pip install jinja2
    python tests/oracle/make_chat_cases.py [MODEL.gguf …] > tests/data/text/chats.json

The templates are those that the models' tokenizer_config.json hold (without the tool calling of some, which a list
of plain messages does not reach), and the templates of the GGUF files named.  A leading BOS is left off: the
tokenizer adds it.
"""
import json
import struct
import sys

from jinja2.sandbox import ImmutableSandboxedEnvironment

BOS, EOS = "<s>", "</s>"
CHATML = ("{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + "
          "'\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}")
TEMPLATES = {
    "chatml": ("chatml", CHATML, EOS),
    "qwen2.5": ("chatml", "{%- if messages[0]['role'] == 'system' %}\n    {{- '<|im_start|>system\\n' + messages[0]['content'] + "
                "'<|im_end|>\\n' }}\n{%- else %}\n    {{- '<|im_start|>system\\nYou are Qwen, created by Alibaba Cloud. You are a "
                "helpful assistant.<|im_end|>\\n' }}\n{%- endif %}\n{%- for message in messages %}\n    {%- if (message.role == "
                "\"user\") or (message.role == \"system\" and not loop.first) or (message.role == \"assistant\") %}\n        {{- "
                "'<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}\n    {%- endif %}\n{%- endfor "
                "%}\n{%- if add_generation_prompt %}\n    {{- '<|im_start|>assistant\\n' }}\n{%- endif %}\n", EOS),
    "llama3": ("llama3", "{% set loop_messages = messages %}{% for message in loop_messages %}{% set content = "
               "'<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n'+ message['content'] | trim + '<|eot_id|>' "
               "%}{% if loop.index0 == 0 %}{% set content = bos_token + content %}{% endif %}{{ content }}{% endfor %}"
               "{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}", "<|eot_id|>"),
    "tinyllama": ("zephyr", "{% for message in messages %}\n{% if message['role'] == 'user' %}\n{{ '<|user|>\n' + message['content'] + "
                  "eos_token }}\n{% elif message['role'] == 'system' %}\n{{ '<|system|>\n' + message['content'] + eos_token }}\n"
                  "{% elif message['role'] == 'assistant' %}\n{{ '<|assistant|>\n'  + message['content'] + eos_token }}\n{% endif "
                  "%}\n{% if loop.last and add_generation_prompt %}\n{{ '<|assistant|>' }}\n{% endif %}\n{% endfor %}", EOS),
    "falcon3": ("falcon3", "{% for message in messages %}{% if message['role'] == 'system' %}{{ '<|system|>\n' + message['content'] + '\n' "
                "}}{% elif message['role'] == 'user' %}{{ '<|user|>\n' + message['content'] + '\n' }}{% elif message['role'] == "
                "'assistant' %}{% if not loop.last %}{{ '<|assistant|>\n'  + message['content'] + eos_token + '\n' }}{% else %}{{ "
                "'<|assistant|>\n'  + message['content'] + eos_token }}{% endif %}{% endif %}{% if loop.last and "
                "add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}{% endfor %}", "<|endoftext|>"),
    "phi3": ("phi3", "{% for message in messages %}{% if message['role'] == 'system' %}{{'<|system|>\n' + message['content'] + "
             "'<|end|>\n'}}{% elif message['role'] == 'user' %}{{'<|user|>\n' + message['content'] + '<|end|>\n'}}{% elif "
             "message['role'] == 'assistant' %}{{'<|assistant|>\n' + message['content'] + '<|end|>\n'}}{% endif %}{% endfor %}"
             "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}", EOS),
    "bitnet-2b4t": ("bitnet-2b4t", "{% set loop_messages = messages %}{% for message in loop_messages %}{% set content = message['role'] | "
                    "capitalize + ': '+ message['content'] | trim + '<|eot_id|>' %}{% if loop.index0 == 0 %}{% set content = "
                    "bos_token + content %}{% endif %}{{ content }}{% endfor %}{% if add_generation_prompt %}{{ 'Assistant: ' "
                    "}}{% endif %}", "<|eot_id|>"),
}
CHATS = [
    [("user", "What is the capital of Japan?")],
    [("system", "Answer briefly."), ("user", "Why is the sky blue?")],
    [("user", "Hi"), ("assistant", "Hello! How can I help?"), ("user", "Name a river.")],
    [("system", "Du bist ein Koch."), ("user", "Grüße, 東京 🙂"), ("assistant", "…"), ("user", "two\nlines"), ("assistant", "ok"),
     ("user", "bye")],
    [("user", "  blanks around  ")],
]


def template_of(path):
    data = open(path, "rb").read(1 << 24)
    key = b"tokenizer.chat_template" + struct.pack("<I", 8)
    at = data.index(key) + len(key)
    (length,) = struct.unpack_from("<Q", data, at)
    return data[at + 8:at + 8 + length].decode()


def main():
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"])
    templates = dict(TEMPLATES)
    for path in sys.argv[1:]:
        templates[path.rsplit("/", 1)[-1]] = ("chatml", template_of(path), EOS)
    cases = []
    for name, (row, source, eos) in templates.items():
        compiled = environment.from_string(source)
        for chat in CHATS:
            messages = [{"role": role, "content": content} for role, content in chat]
            want = compiled.render(messages=messages, add_generation_prompt=True, bos_token=BOS, eos_token=eos)
            cases.append({"name": name, "row": row, "template": source, "messages": messages,
                          "text": want.removeprefix(BOS)})
    json.dump(cases, sys.stdout, ensure_ascii=True, indent=0)
    print()


main()
