"""`python -m board.password` asks for a password and prints the hash that belongs into BOARD_PASSWORD_HASH.

It reads one line where it is given a pipe. The password itself is stored nowhere.
"""

import getpass
import sys

from argon2 import PasswordHasher

from board.passwords import MAX_LENGTH

MIN_LENGTH = 8


def main() -> None:
    if sys.stdin.isatty():
        password = getpass.getpass("Password: ")
        if password != getpass.getpass("Again: "):
            sys.exit("The two passwords differ.")
    else:
        password = sys.stdin.readline().rstrip("\n")
    if not MIN_LENGTH <= len(password) <= MAX_LENGTH:
        sys.exit(f"The password has {len(password)} characters: {MIN_LENGTH} to {MAX_LENGTH} are allowed.")
    sys.stdout.write(PasswordHasher().hash(password) + "\n")


if __name__ == "__main__":
    main()
