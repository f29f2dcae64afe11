"""What the notebooks say of a reader's answer to an exercise."""


def checker(right):
    """Return a function that prints whether an answer is right, or that there is none yet (``...``).

    `right` is a function that is true of right answers. What it raises is printed: the answer was of a wrong kind.
    """

    def check(answer):
        if answer is ...:
            print("No answer yet: put yours in place of the dots.")
            return
        try:
            found = bool(right(answer))
        except Exception as error:
            print(f"{answer!r} cannot be checked: {error}")
            return
        print("Right." if found else f"Not {answer!r}: try again, or unfold the solution.")

    return check
