"""An object for a `Worker` of the tests."""

import os
import time


class Computer:
    """What the processes of the tests compute."""

    def add(self, first, second):
        print("adding")
        return first + second, os.environ["T2I_TPU_TEST"]

    def fail(self, text):
        raise ValueError(text)

    def sleep(self):
        time.sleep(600)

    def end(self):
        os._exit(7)
