//! Finds files that import each other in a circle.
//!
//! An import is a path in the code that begins with `crate`, `self`, `super`, or with a child of the
//! file, and leads to another file. A name that a `mod.rs` only passes on counts as the file that it
//! comes from. The line `mod child;` is not an import: a folder is made of its files, and which of
//! them needs which is what is asked here.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use super::{code, sources};

/// A module, by the names on the way to it: `["consumer", "claim"]`.
type Module = Vec<String>;

struct Tree {
    /// The code of each module that has a file.
    files: BTreeMap<Module, String>,
}

/// The circles among the files below a folder of `root`, each as the modules that are part of it.
pub(crate) fn below(root: &Path, folder: &str) -> Vec<BTreeSet<String>> {
    let tree = Tree::read(root);
    let inside: BTreeSet<&Module> = tree
        .files
        .keys()
        .filter(|module| module.first().is_some_and(|one| one == folder))
        .collect();
    assert!(!inside.is_empty(), "there is no {folder}");
    let arrows: BTreeMap<&Module, BTreeSet<Module>> =
        inside.iter().map(|module| (*module, tree.imports(module))).collect();
    let mut reached: BTreeMap<&Module, BTreeSet<Module>> = BTreeMap::new();
    for module in &inside {
        let mut seen = BTreeSet::new();
        let mut next: Vec<Module> = arrows[module].iter().cloned().collect();
        while let Some(other) = next.pop() {
            if seen.insert(other.clone())
                && let Some(further) = arrows.get(&other)
            {
                next.extend(further.iter().cloned());
            }
        }
        reached.insert(module, seen);
    }
    let mut circles: Vec<BTreeSet<String>> = Vec::new();
    for (module, seen) in &reached {
        if seen.contains(*module) {
            let circle: BTreeSet<String> = inside
                .iter()
                .filter(|other| seen.contains(**other) && reached[**other].contains(*module))
                .map(|other| other.join("::"))
                .collect();
            if !circles.contains(&circle) {
                circles.push(circle);
            }
        }
    }
    circles
}

impl Tree {
    fn read(root: &Path) -> Self {
        let mut paths = Vec::new();
        sources(root, &mut paths);
        let mut files = BTreeMap::new();
        for path in paths {
            let name = path.strip_prefix(root).expect("below it").with_extension("");
            let mut module: Module =
                name.iter().map(|part| part.to_string_lossy().into_owned()).collect();
            if module.last().is_some_and(|last| last == "mod" || last == "lib") {
                module.pop();
            }
            if !module.last().is_some_and(|last| last.ends_with("tests")) {
                files.insert(module, code(&fs::read_to_string(&path).expect("readable")));
            }
        }
        Self { files }
    }

    /// The files that a module imports.
    fn imports(&self, module: &Module) -> BTreeSet<Module> {
        let found = paths(&self.files[module]).into_iter();
        found
            .filter_map(|path| self.resolve(module, &path, 0))
            .filter(|other| other != module)
            .collect()
    }

    /// The file that has what `path`, said in `module`, names.
    fn resolve(&self, module: &Module, path: &[String], depth: usize) -> Option<Module> {
        let mut at = module.clone();
        let mut rest = path;
        match path.first()?.as_str() {
            "crate" => {
                at.clear();
                rest = &path[1..];
            }
            "self" => rest = &path[1..],
            "super" => {
                while rest.first().is_some_and(|first| first == "super") {
                    at.pop()?;
                    rest = &rest[1..];
                }
            }
            first => {
                let child = [at.as_slice(), &[first.to_owned()]].concat();
                if !self.files.contains_key(&child) {
                    return None;
                }
            }
        }
        while let Some((first, further)) = rest.split_first() {
            let child = [at.as_slice(), std::slice::from_ref(first)].concat();
            if !self.files.contains_key(&child) {
                break;
            }
            at = child;
            rest = further;
        }
        // What is only passed on comes from elsewhere.
        if let Some(name) = rest.first().filter(|_| depth < 4)
            && let Some(source) = passed_on(&self.files[&at], name)
        {
            return self.resolve(&at, &source, depth + 1).or(Some(at));
        }
        Some(at)
    }
}

/// Where a `pub use` of the code takes a name from.
fn passed_on(code: &str, name: &str) -> Option<Vec<String>> {
    let uses = code.match_indices("pub use ").chain(code.match_indices("pub(crate) use "));
    uses.chain(code.match_indices("pub(super) use "))
        .flat_map(|(at, prefix)| tree_at(&code[at + prefix.len()..]))
        .find(|path| path.last().is_some_and(|last| last == name))
}

/// All paths in the code that may lead to another file.
fn paths(code: &str) -> Vec<Vec<String>> {
    let mut found = Vec::new();
    for start in ["crate::", "self::", "super::"] {
        for (at, _) in code.match_indices(start) {
            let before = code[..at].chars().next_back();
            let is_whole = !before.is_some_and(|one| one.is_alphanumeric() || "_:".contains(one));
            if is_whole && !code[..at].ends_with("in ") {
                found.extend(tree_at(&code[at..]));
            }
        }
    }
    // Of a child, as a `mod.rs` imports it.
    for (at, _) in code.match_indices("\nuse ") {
        found.extend(tree_at(&code[at + 5..]));
    }
    found
}

/// Reads `a::b::{c, d::e}` as the paths `a::b::c` and `a::b::d::e`.
fn tree_at(text: &str) -> Vec<Vec<String>> {
    let text = text.trim_start();
    let end = text.find(|one: char| !one.is_alphanumeric() && one != '_').unwrap_or(text.len());
    let (name, rest) = text.split_at(end);
    if name.is_empty() {
        return Vec::new();
    }
    let own = vec![name.to_owned()];
    let Some(below) = rest.strip_prefix("::") else {
        return vec![own];
    };
    let parts: Vec<&str> = match below.strip_prefix('{') {
        Some(group) => members(group),
        None => vec![below],
    };
    let further: Vec<Vec<String>> = parts.into_iter().flat_map(tree_at).collect();
    if further.is_empty() {
        return vec![own];
    }
    further.into_iter().map(|path| [own.clone(), path].concat()).collect()
}

/// The members of a group whose opening brace is left out.
fn members(group: &str) -> Vec<&str> {
    let (mut depth, mut from, mut found) = (0, 0, Vec::new());
    for (at, letter) in group.char_indices() {
        match letter {
            '{' => depth += 1,
            '}' if depth == 0 => {
                found.push(&group[from..at]);
                return found;
            }
            '}' => depth -= 1,
            ',' if depth == 0 => {
                found.push(&group[from..at]);
                from = at + 1;
            }
            _ => {}
        }
    }
    found
}

#[test]
fn a_use_tree_is_read_as_the_paths_it_names() {
    let read =
        |text| -> Vec<String> { tree_at(text).into_iter().map(|path| path.join("::")).collect() };
    assert_eq!(
        read("super::claim::{Claimed, own::{A, B}};"),
        ["super::claim::Claimed", "super::claim::own::A", "super::claim::own::B",]
    );
    assert_eq!(read("crate::Error>"), ["crate::Error"]);
}

#[test]
fn a_circle_is_found_through_a_name_that_is_passed_on() {
    let root = tempfile::tempdir().expect("a folder");
    let write = |name: &str, text: &str| {
        let path = root.path().join(name);
        fs::create_dir_all(path.parent().expect("a folder")).expect("created");
        fs::write(path, text).expect("written");
    };
    write("room/mod.rs", "\nmod one;\nmod two;\npub use one::First;\n");
    write("room/one.rs", "\npub struct First;\nfn look() { super::two::second() }\n");
    write("room/two.rs", "\nuse crate::room::First;\npub fn second() -> First {}\n");
    let circle = BTreeSet::from(["room::one".to_owned(), "room::two".to_owned()]);
    assert_eq!(below(root.path(), "room"), [circle]);
    write("room/one.rs", "\npub struct First;\n");
    assert_eq!(below(root.path(), "room"), Vec::<BTreeSet<String>>::new());
}
