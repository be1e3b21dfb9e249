def test_x(environment):
    print(environment.run("-c", "import roofstep; print(roofstep.__file__)"))
