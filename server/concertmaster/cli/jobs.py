"""The ready-made jobs that the settings provide."""

from pathlib import Path

from concertmaster.catalog.catalog import builtin_folder
from concertmaster.runs.job_files import JobsReading, read_jobs
from concertmaster.settings import Settings, configuration_folder


def job_folders(settings: Settings) -> tuple[Path, ...]:
    """Return the folders of job files, the later winning over the earlier."""
    own = configuration_folder() / "jobs"
    present = [own] if own.is_dir() else []
    return (builtin_folder("jobs"), *present, *settings.job_folders)


def find_jobs(settings: Settings) -> JobsReading:
    """Return all jobs, and what is wrong with files that are none."""
    return read_jobs(*job_folders(settings))
