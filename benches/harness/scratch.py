"""The directory that everything happens in: data sets, archives, restored trees."""
import os, shutil, subprocess, sys, time
from .measure import say

HERE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
# ext4 without a journal leaves freed inodes alone for so long, and walks over them meanwhile.
INODES_REST = 300


class Scratch:
    def __init__(self, root):
        self.root = os.path.abspath(root)
        os.makedirs(self.root, exist_ok=True)

    def path(self, *parts):
        return os.path.join(self.root, *parts)

    def data(self, what, *options, name=None):
        """A data set, made when it is not there yet."""
        home = self.path("data", name or what)
        done = home + ".made"
        if not os.path.exists(done):
            say(f"making the data set {name or what} ...")
            shutil.rmtree(home, ignore_errors=True)
            generator = os.path.join(HERE, "data", "fs_dataset.py")
            subprocess.run([sys.executable, generator, home, what, *options], check=True)
            open(done, "w").close()
        return os.path.join(home, what)

    def fresh(self, *parts):
        """A path for a tree to be restored to."""
        path = self.path("restored", *parts)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        return path

    def discard(self):
        """Removes the restored trees, and remembers when that was."""
        for name in ("restored", "archives"):
            shutil.rmtree(self.path(name), ignore_errors=True)
        with open(self.path("discarded"), "w"):
            pass

    def rest(self):
        """Waits until the trees that an earlier command discarded disturb no more."""
        if os.path.isdir(self.path("restored")):
            say("removing what an interrupted command left")
            self.discard()
        try:
            left = INODES_REST - (time.time() - os.path.getmtime(self.path("discarded")))
        except FileNotFoundError:
            return
        if left > 0:
            say(f"waiting {left:.0f} s, because the file system still works on the trees that the last command removed (--no-rest: do not)")
            time.sleep(left)
