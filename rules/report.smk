"""Scores and stores come in; tables and one HTML page go out."""


rule report:
    input:
        asked=asked("report"),
        stamps=after("report", stamps_of_report),
    output:
        page=report(
            "<results>/report/report.html",
            caption="captions/page.rst",
            category="Report",
        ),
        csv=report(
            "<results>/report/table.csv",
            caption="captions/csv.rst",
            category="Scores",
        ),
        markdown=report(
            "<results>/report/table.md",
            caption="captions/markdown.rst",
            category="Scores",
        ),
        annotate_next=report(
            "<results>/report/annotate_next.csv",
            caption="captions/annotate_next.rst",
            category="Scores",
        ),
        latex="<results>/report/table.tex",
        matrix="<results>/report/matrix.csv",
        matrix_markdown="<results>/report/matrix.md",
        pairs="<results>/report/pairs.csv",
        parquet="<results>/report/table.parquet",
    log:
        "<results>/logs/report.log",
    conda:
        "../envs/unet.yaml"
    threads: 1
    resources:
        mem_mb=4000,
        runtime=60,
    params:
        cfg=options("report"),
        record=record("report"),
        config=whole_config,
    message:
        "report: tables and page"
    script:
        "../scripts/report.py"
