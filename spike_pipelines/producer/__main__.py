import typer

from spike_pipelines.producer.command import produce

if __name__ == "__main__":
    typer.run(produce)
