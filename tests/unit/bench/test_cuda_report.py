"""The report on the CUDA kernels reads what ptxas writes."""

from bench.cuda_report import Usage, compile_commands, complaints, parse_ptxas

PTXAS = """\
ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function '_Z3addv' for 'sm_80'
ptxas info    : Function properties for _Z3addv
    16 bytes stack frame, 4 bytes spill stores, 8 bytes spill loads
ptxas info    : Used 40 registers, used 1 barriers, 16 bytes cumulative stack size, 37040 bytes smem, 544 bytes cmem[0]
ptxas info    : Compiling entry function '_Z3subv' for 'sm_90a'
ptxas info    : Function properties for _Z3subv
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 24 registers, used 0 barriers
"""


def test_registers_spills_and_shared_memory_are_read_per_kernel():
    assert list(parse_ptxas(PTXAS)) == [
        Usage("_Z3addv", "sm_80", registers=40, stack_bytes=16, spill_bytes=12, shared_bytes=37040),
        Usage("_Z3subv", "sm_90a", registers=24, stack_bytes=0, spill_bytes=0, shared_bytes=0),
    ]


def test_what_ptxas_only_informs_of_is_a_complaint():
    slow = "(C7510) Potential Performance Loss: wgmma.mma_async instructions are serialized due to a call in '_Z3addv'"
    assert complaints(f"{PTXAS}ptxas info    : {slow}\n") == [slow]
    assert complaints(PTXAS) == []


def test_only_sources_that_nvcc_compiles_are_reported(tmp_path):
    (tmp_path / "compile_commands.json").write_text(
        '[{"file": "/a/norm_cuda.cu", "command": "ccache nvcc -x cu -c /a/norm_cuda.cu -o n.o"},'
        ' {"file": "/a/norm.cc", "command": "c++ -c /a/norm.cc -o n.o"},'
        ' {"file": "/a/norm_cuda.cu", "command": "c++ -c /a/norm_cuda.cu -o emulated.o"}]'
    )
    assert [name for name, _ in compile_commands(tmp_path)] == ["norm_cuda.cu"]
