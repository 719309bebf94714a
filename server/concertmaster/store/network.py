"""Whether a folder is on another machine, where locks of files cannot be relied on."""

from pathlib import Path

import psutil

_KINDS = frozenset(
    {
        "afpfs",
        "afs",
        "beegfs",
        "ceph",
        "cifs",
        "davfs",
        "fuse.ceph",
        "fuse.davfs2",
        "fuse.glusterfs",
        "fuse.rclone",
        "fuse.s3fs",
        "fuse.sshfs",
        "glusterfs",
        "gpfs",
        "lustre",
        "nfs",
        "nfs4",
        "smb3",
        "smbfs",
        "webdav",
    }
)


def network_share(folder: Path) -> str:
    """Return the kind of network share that a folder is on; nothing if it is on a local disk."""
    place = folder.resolve()
    if place.drive.startswith("\\\\"):
        return "a path of another machine"
    best = Path()
    kind = ""
    for mount in psutil.disk_partitions(all=True):
        root = Path(mount.mountpoint)
        # What is mounted later at the same place hides what was there.
        if place.is_relative_to(root) and len(root.parts) >= len(best.parts):
            remote = mount.fstype.lower() in _KINDS or "remote" in mount.opts.split(",")
            best, kind = root, mount.fstype if remote else ""
    return kind
