"""Statistics of the data of a model come in; a readable file with all that was decided from them goes out."""


rule plan:
    input:
        asked=asked("plan"),
        groundtruth=after("plan", truths_of_model),
        weights=after("plan", weights_of_model),
        start=after("plan", network_taken),
    output:
        stamp="<results>/plan/{model}.json",
    log:
        "<results>/logs/plan/{model}.log",
    benchmark:
        "<results>/benchmarks/plan/{model}.jsonl"
    wildcard_constraints:
        model=NETWORKS,
    conda:
        "../envs/unet.yaml"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=30,
    params:
        cfg=options("plan"),
        record=record("plan"),
    message:
        "plan: {wildcards.model}, decisions from the data"
    script:
        "../scripts/plan.py"
