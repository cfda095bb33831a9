"""Values of λ computed by hand, for the tests of the function and of its hook."""

LINEAR = {'lambda_bg': 1.0, 'burn_in': 5, 'warmup': 5, 'schedule': 'linear'}
COSINE, STEP, CONSTANT = ({**LINEAR, 'schedule': name} for name in ('cosine', 'step', 'constant'))
AT_ONCE = {**LINEAR, 'warmup': 0}
NO_BURN_IN = {**LINEAR, 'burn_in': 0}
HALF_EPOCHS = {**LINEAR, 'burn_in': 0.5, 'warmup': 1.5}
ITERATIONS = {'lambda_bg': 2.5, 'burn_in': 1000, 'warmup': 4000, 'schedule': 'linear'}

# Arguments, progress, λ. The hook's test needs progress in multiples of 0.001.
GOLDEN = [
    *((LINEAR, p, 0.0) for p in (0, 1, 2.5, 4.75, 5)),
    *((LINEAR, p, v) for p, v in ((5.5, 0.1), (6, 0.2), (7.5, 0.5), (9, 0.8), (10, 1.0), (10.25, 1.0), (300, 1.0))),
    *((COSINE, p, v) for p, v in ((4.75, 0.0), (5, 0.0), (6, 0.09549150281252627), (6.25, 0.14644660940672624))),
    *((COSINE, p, v) for p, v in ((7.5, 0.5), (8.75, 0.8535533905932737), (10, 1.0), (50, 1.0))),
    *((STEP, p, v) for p, v in ((4.75, 0.0), (5, 0.0), (5.75, 0.0), (6, 0.2), (6.75, 0.2), (7, 0.4), (9.75, 0.8))),
    *((STEP, p, 1.0) for p in (10, 10.5, 12)),
    *((CONSTANT, p, v) for p, v in ((0, 0.0), (4.75, 0.0), (5, 1.0), (5.25, 1.0), (11, 1.0))),
    *((AT_ONCE, p, v) for p, v in ((4.75, 0.0), (5, 1.0), (6, 1.0))),
    *(({**AT_ONCE, 'schedule': name}, 5, 1.0) for name in ('cosine', 'step', 'constant')),
    *((NO_BURN_IN, p, v) for p, v in ((0, 0.0), (1, 0.2), (2.5, 0.5), (5, 1.0), (6, 1.0))),
    *((HALF_EPOCHS, p, v) for p, v in ((0.25, 0.0), (0.5, 0.0), (1.25, 0.5), (2, 1.0))),
    *(({**CONSTANT, 'burn_in': 0}, p, 1.0) for p in (0, 1)),
    *(({**LINEAR, 'burn_in': 0, 'warmup': 0}, p, 1.0) for p in (0, 1)),
    *(({**LINEAR, 'lambda_bg': 0}, p, 0.0) for p in (4, 6, 12)),
    *((ITERATIONS, p, v) for p, v in ((0, 0.0), (999, 0.0), (1000, 0.0), (2000, 0.625), (3000, 1.25), (5000, 2.5))),
    *((ITERATIONS, p, 2.5) for p in (5001, 90000)),
    *(({**ITERATIONS, 'schedule': 'step'}, p, v) for p, v in ((1001, 0.000625), (3000, 1.25))),
]
