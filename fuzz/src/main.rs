//! Runs the target that LONGSHORE_FUZZ_TARGET names under libFuzzer, as scripts/fuzz builds it; built
//! otherwise, it names all targets.

#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
mod fuzzer {
    use std::sync::LazyLock;

    use longshore_fuzz::Target;

    static TARGET: LazyLock<Target> = LazyLock::new(|| {
        let name =
            std::env::var("LONGSHORE_FUZZ_TARGET").expect("LONGSHORE_FUZZ_TARGET names a target");
        Target::named(&name).expect("it names one of them")
    });

    libfuzzer_sys::fuzz_target!(|bytes: &[u8]| TARGET.check(bytes));
}

#[cfg(not(fuzzing))]
fn main() {
    for target in longshore_fuzz::TARGETS {
        println!("{}", target.name);
    }
}
