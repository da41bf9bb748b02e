"""Prints what no console of Western Europe can show, and ends with a user's mistake."""

from noisy_student.files import UserError, run_script


def main():
    print("class 猫")
    raise UserError("no image of 猫")


run_script(main)
